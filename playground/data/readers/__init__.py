"""Files of any common kind -> numbered records."""

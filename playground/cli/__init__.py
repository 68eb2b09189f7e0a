"""The command line: every verb is a thin door to a service that the web app uses too."""

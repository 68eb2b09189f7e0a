"""Texts that want to be more than text. Where one of them runs, ``window.pwned`` is set, or ``/pwned`` is fetched."""

PAYLOADS = (
    '<img src=/pwned onerror="window.pwned=1">',
    '"><svg onload="window.pwned=1">',
    "${window.pwned=1}{{window.pwned=1}}",
    "</script><script>window.pwned=1</script>",
    "<iframe srcdoc='<script>parent.pwned=1</script>'>",
    "' autofocus onfocus='window.pwned=1' x='",
    "[x](javascript:window.pwned=1)<b onclick=x>",
    "&lt;img src=/pwned onerror=window.pwned=1&gt;",
)

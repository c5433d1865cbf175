"""Why tests are skipped, for the summary at the end of a run."""

NO_CHROMIUM = (
    "no Chromium found, the playground was not tested; to test it, install one (Debian: apt-get install chromium)"
)

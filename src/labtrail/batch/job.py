"""``python -m labtrail.batch.job FILE``, as in job scripts of earlier versions; now ``labtrail.jobs.job``."""

from labtrail.jobs.job import main

if __name__ == "__main__":
    main()

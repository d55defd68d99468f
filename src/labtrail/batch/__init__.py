"""The earlier place of ``labtrail.jobs``; jobs that wait in a queue still name it."""

"""Behind `bunkhouse up`: brings a host up in order, keeps it up, takes it down in order.

host       the whole: start, wait until ready, keep, stop
programs   what is started beside Redis: gateway, scheduler, a worker for each model and provider, jobs
child      one program kept running
restarts   when to try again, and when to give up
claims     that the data folder and the port are this host's alone
readiness  what start-up still waits for
display    what the terminal shows
"""

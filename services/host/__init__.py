"""Behind `bunkhouse up`: starts a host's processes, keeps them running, stops them in order.

host        the whole: start, wait until ready, supervise, stop
programs    the processes beside Redis: gateway, scheduler, a worker for each model and provider, jobs
child       one process kept running
restarts    when a process is restarted, and when it is given up
claims      locks the data folder and checks the port
readiness   what start-up still waits for
display     what the terminal shows
state_file  what other commands read of a running host
"""

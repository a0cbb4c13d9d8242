"""The dashboard: one page that shows where the GPU's memory and bandwidth go, and the controls that change it.

pages       the ASGI application that holds dashboard and widget, and what runs beside it
logins      login, signed cookie, CSRF
security    headers of every page
admin_client  the admin API, asked in process with the operator's own key
view        what the pages show, from snapshot and engines
recorder    the last minutes, for the charts
router      pages, parts and controls
playground  a chat with a bot, shown with its KV bits and times
templates/, static/   no build step: htmx, uPlot, one style sheet, a few scripts
"""

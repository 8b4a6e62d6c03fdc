"""A local page on the runs of a folder: `ectype ui`.

- `serve`: the address, the socket, and the server
- `access`, `lanes`: who may ask, from where, and how much at a time
- `folder`: which runs there are, and which of their files are safe to read
- `state`, `follow`, `pictures`: what the files of a run say, once and while they are written
- `trainings`: runs that are started from the page
- `workers`, `model_worker`: the processes in which models are loaded and uploaded images decoded
- `batches`, `tasks`: images that a user drops, and what is done with them
- `model_routes`, `frames`: the routes that use models, and the bytes that they exchange with the page
- `app`: the other routes, which only call the others
- `static`: the page itself, plain modules without a build step; charts are drawn by uPlot (MIT, `static/uPlot.LICENSE`)
"""

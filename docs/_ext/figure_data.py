"""What the figure in the browser needs of minist, as a script beside the pages: `theta_data.js`.

A script, since a page opened from a folder may not fetch a file of data.
"""

import base64
import json
from pathlib import Path

from minist import datasets, spatial
from minist.spatial.thin_plate import solve

DIGITS = (61, 4, 0, 1, 15, 7)  # of the test images


def data():
    images = datasets.MNIST(train=False).images
    spline = spatial.ThinPlateSpline(4, 4)
    return {
        "size": images.shape[-1],
        "digits": [base64.b64encode(images[i].tobytes()).decode() for i in DIGITS],
        "controlPoints": spline.control_points.tolist(),
        "solution": solve(spline.control_points).tolist(),
    }


def write(app, exception):
    if exception is None and app.builder.format == "html":
        path = Path(app.outdir) / "_static" / "theta_data.js"
        path.write_text(f"const THETA_DATA = {json.dumps(data())};\n", encoding="utf-8")


def setup(app):
    app.connect("build-finished", write)
    return {"parallel_read_safe": True}

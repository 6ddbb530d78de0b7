"""What the figures in the browser need of minist, as scripts beside the pages.

Scripts, since a page opened from a folder may not fetch a file of data.
"""

import base64
import json
from pathlib import Path

from minist import datasets, models, spatial
from minist.spatial.thin_plate import solve

NETWORK = Path(models.__file__).parent / "weights" / "st-cnn-affine-R.safetensors"
DIGITS = (61, 4, 0, 1, 15, 7)  # of the test images


def as_text(data):
    return base64.b64encode(data).decode()


def theta_data():
    images = datasets.MNIST(train=False).images
    spline = spatial.ThinPlateSpline(4, 4)
    return {
        "size": images.shape[-1],
        "digits": [as_text(images[i].tobytes()) for i in DIGITS],
        "controlPoints": spline.control_points.tolist(),
        "solution": solve(spline.control_points).tolist(),
    }


def network_data():
    return {"size": 28, "network": as_text(NETWORK.read_bytes())}


def write(app, exception):
    if exception is None and app.builder.format == "html":
        for name, data in {"theta": theta_data(), "network": network_data()}.items():
            path = Path(app.outdir) / "_static" / f"{name}_data.js"
            script = f"const {name.upper()}_DATA = {json.dumps(data)};\n"
            path.write_text(script, encoding="utf-8")


def setup(app):
    app.connect("build-finished", write)
    return {"parallel_read_safe": True}

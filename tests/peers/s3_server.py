"""An S3-compatible server on loopback with two buckets, `skyscript` (the world) and `work` (empty).

usage: s3_server.py WORLD_FOLDER [REQUEST_LOG]      prints its address, then serves until it is killed
"""
import pathlib
import sys
import threading
import time

import boto3
import moto.server
from moto.server import ThreadedMotoServer
from werkzeug.serving import WSGIRequestHandler

# some versions have a handler of their own
handler = getattr(moto.server, "MotoRequestHandler", WSGIRequestHandler)
# between the look whether an object is there and its creation another request may create it: S3 lets one of them
writes, run_wsgi = threading.Lock(), handler.run_wsgi


def run_alone(self):
    if self.command != "PUT":
        return run_wsgi(self)
    with writes:
        return run_wsgi(self)


handler.run_wsgi = run_alone
# every request of the program is written down, one line each, where a folder for it is given
if len(sys.argv) > 2:
    log = open(sys.argv[2], "a", buffering=1)

    def log_request(self, *_):
        print(self.command, self.path, file=log, flush=True)

    handler.log_request = log_request
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
endpoint = f"http://{host}:{port}"
s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="testing", aws_secret_access_key="testing")
s3.create_bucket(Bucket="skyscript", ACL="public-read")
s3.create_bucket(Bucket="work")
world = pathlib.Path(sys.argv[1])
for path in sorted(p for p in world.rglob("*") if p.is_file()):
    s3.upload_file(str(path), "skyscript", f"SkyScript/{path.relative_to(world)}")
print(endpoint, flush=True)
while True:
    time.sleep(60)

"""A container of the stand-in kubelet (kubelet.py): a process, what has become of it, and what it prints."""
import datetime
import http.server
import os
import ssl
import subprocess
import threading
import time
import urllib.parse

BACKOFF = 10  # seconds, doubled by each restart


def stamp(when=None, micro=""):
    when = datetime.datetime.fromtimestamp(time.time() if when is None else when, datetime.timezone.utc)
    return when.strftime(f"%Y-%m-%dT%H:%M:%S{micro}Z")


class Container:
    """The container of a pod, as a process."""

    def __init__(self, pod, folder):
        self.pod, self.folder, self.process, self.began, self.first = pod, folder, None, None, None
        self.terminated, self.last, self.waiting = None, None, ("ContainerCreating", "")
        self.restarts, self.again, self.is_told, self.reported = 0, 0.0, False, None

    def start(self, command, environment):
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            start_new_session=True)
        self.began, self.first = stamp(), self.first or stamp()

    def signal(self, number):
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def look(self, policy):
        """Notices that the process has ended, and what follows."""
        if self.process is None or self.process.poll() is None:
            return
        code, self.process = self.process.returncode, None
        code = 128 - code if code < 0 else code
        ended = {"exitCode": code, "reason": "Error" if code else "Completed", "startedAt": self.began, "finishedAt": stamp()}
        if self.is_told or code == 0 or policy == "Never":
            self.terminated = ended
            return
        pause = min(BACKOFF * 2 ** self.restarts, 300)
        self.again, self.restarts, self.last = time.time() + pause, self.restarts + 1, ended
        self.waiting = ("CrashLoopBackOff", f"back-off {pause}s restarting failed container")

    def status(self, container):
        """The pod's status as the server takes it."""
        phase, state = "Running" if self.first else "Pending", {"waiting": dict(zip(("reason", "message"), self.waiting))}
        if self.process:
            state = {"running": {"startedAt": self.began}}
        elif self.terminated:
            phase, state = "Failed" if self.terminated["exitCode"] else "Succeeded", {"terminated": self.terminated}
        ready = str(bool(self.process))
        conditions = {"Initialized": "True", "Ready": ready, "ContainersReady": ready, "PodScheduled": "True"}
        last = {"lastState": {"terminated": self.last}} if self.last else {}
        return {"phase": phase, "hostIP": "127.0.0.1", "podIP": "127.0.0.1", "startTime": self.first,
                "conditions": [{"type": kind, "status": value} for kind, value in conditions.items()],
                "containerStatuses": [{"name": container["name"], "image": container["image"], "imageID": "", "state": state,
                                       "ready": bool(self.process), "restartCount": self.restarts, **last}]}


def serve_logs(folder, log_of):
    """Answers what the server asks for `kubectl logs`: /containerLogs/NAMESPACE/POD/CONTAINER. Returns its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked = urllib.parse.urlparse(self.path)
            name = asked.path.split("/")[3]
            if log_of(name) is None:
                return self.send_error(404)
            self.send_response(200)
            self.end_headers()
            with open(log_of(name)[0], "rb") as log:
                goes_on = True
                while goes_on:
                    goes_on = "follow=true" in asked.query and log_of(name) is not None and log_of(name)[1]
                    self.wfile.write(log.read())
                    time.sleep(0.25 if goes_on else 0)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "kubelet.crt", folder / "kubelet.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port

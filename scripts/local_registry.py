"""A docker-registry of one's own, on a free port of the loopback interface. For bench and store-races."""
import os
import socket
import subprocess
import time


class Unable(Exception):
    pass


class Registry:
    """Runs within `with`; all it has lies in `work`."""

    def __init__(self, work):
        self.work = work

    def __enter__(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{s.getsockname()[1]}"
        data = os.path.join(self.work, "registry")
        os.makedirs(data, exist_ok=True)
        config = os.path.join(self.work, "registry.yml")
        with open(config, "w") as f:
            f.write("version: 0.1\nlog: {level: warn, accesslog: {disabled: true}}\n"
                    f"storage: {{filesystem: {{rootdirectory: {data}}}}}\n"
                    f'http: {{addr: "{self.address}", secret: local}}\n')
        with open(os.path.join(self.work, "registry.log"), "w") as log:
            self.process = subprocess.Popen(["docker-registry", "serve", config], stdout=log, stderr=log)
        for _ in range(200):
            try:
                socket.create_connection(self.address.split(":"), 1).close()
                return self
            except OSError:
                time.sleep(0.05)
        raise Unable("docker-registry does not come up; see registry.log")

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def push(self, layout, tag, name):
        """Puts an image of an OCI layout there; gives its reference."""
        reference = f"{self.address}/{name}"
        subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false",
                        f"oci:{layout}:{tag}", "docker://" + reference], check=True)
        return reference

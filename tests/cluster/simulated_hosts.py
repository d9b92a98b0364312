"""Several hosts on one Linux machine: each has network, process, mount and host-name namespaces and a real sshd."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

BRIDGE = "stillbr0"
NETWORK = "10.83.0"
NEEDED = ("ip", "unshare", "nsenter", "sshd", "ssh", "ssh-keygen", "rsync")

# A home, /tmp/ray and /dev/shm of its own: otherwise hosts share Ray's sessions, and `ray stop` on one ends all.
BOOT = """
hostname {name}
mount -t tmpfs tmpfs {layer} && mkdir {layer}/upper {layer}/work
mount -t overlay overlay -o lowerdir=$HOME,upperdir={layer}/upper,workdir={layer}/work $HOME
rm -rf $HOME/.ray $HOME/.profile; touch $HOME/.bashrc
mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray && mount -t tmpfs tmpfs /dev/shm
exec /usr/sbin/sshd -D -o HostKey={folder}/host_key -o AuthorizedKeysFile={folder}/key.pub -o StrictModes=no \
  -o PidFile=none -o ListenAddress={address} -o PermitRootLogin=yes -o MaxStartups=100
"""


def lacking() -> str | None:
    """What keeps this machine from simulating hosts; None if nothing does."""
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    if absent := [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]:
        return f"{', '.join(absent)} not installed (apt-get install iproute2 openssh-server rsync)"
    for probe in (
        ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "true"],
        ["unshare", "--net", "ip", "link", "add", "probe", "type", "bridge"],
    ):
        tried = subprocess.run(probe, capture_output=True, text=True, check=False)
        if tried.returncode != 0:
            return f"this machine does not let root do: {' '.join(probe)} ({tried.stderr.strip()})"
    return None


class SimulatedHosts:
    """Use as a context manager; hosts are numbered from 0, and no process of theirs outlives it."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count
        self._inits: dict[int, subprocess.Popen] = {}
        self.key = folder / "key"

    def address(self, index: int) -> str:
        """Of one host."""
        return f"{NETWORK}.{11 + index}"

    def __enter__(self) -> "SimulatedHosts":
        try:
            for name in ("key", "host_key"):
                _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name))
            Path("/run/sshd").mkdir(exist_ok=True)
            _run("ip", "link", "add", BRIDGE, "type", "bridge")
            _run("ip", "addr", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
            _run("ip", "link", "set", BRIDGE, "up")
            for index in range(self.count):
                self._boot(index)
            for index in range(self.count):
                self._await(index)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _boot(self, index: int) -> None:
        name, outer, inner = f"still{index}", f"stillv{index}", f"stille{index}"
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner)
        _run("ip", "link", "set", outer, "master", BRIDGE, "up")
        _run("ip", "link", "set", inner, "netns", name)
        _run("ip", "-n", name, "addr", "add", f"{self.address(index)}/24", "dev", inner)
        for device in (inner, "lo"):
            _run("ip", "-n", name, "link", "set", device, "up")
        _run("ip", "-n", name, "route", "add", "default", "via", f"{NETWORK}.1")  # by which Ray finds its own address
        layer = self.folder / f"layer{index}"
        layer.mkdir()
        script = BOOT.format(name=name, layer=layer, folder=self.folder, address=self.address(index))
        apart = ("unshare", "--pid", "--mount", "--uts", "--fork", "--mount-proc", "--kill-child")
        with open(self.folder / f"sshd{index}.log", "w") as log:
            self._inits[index] = subprocess.Popen(
                ["ip", "netns", "exec", name, *apart, "bash", "-c", script],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _await(self, index: int) -> None:
        until = time.monotonic() + 20
        while self.shell(index, "true", check=False).returncode != 0:
            assert time.monotonic() < until, (self.folder / f"sshd{index}.log").read_text()
            time.sleep(0.2)

    def shell(self, index: int, command: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in a login shell of a host, over SSH."""
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=5"]
        ssh = ["ssh", "-i", str(self.key), *options, "-o", "LogLevel=ERROR", f"root@{self.address(index)}"]
        done = subprocess.run([*ssh, f"bash -lc '{command}'"], capture_output=True, text=True, check=False, timeout=60)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def processes(self, index: int) -> list[str]:
        """Command lines of all processes of a host, also of one that is cut off."""
        init = self._inits[index]
        if init.poll() is not None:
            return []
        children = Path(f"/proc/{init.pid}/task/{init.pid}/children").read_text().split()
        if not children:
            return []
        listed = subprocess.run(
            ["nsenter", f"--target={children[0]}", "--pid", "--mount", "ps", "-eo", "args="],
            capture_output=True,
            text=True,
            check=False,
        )
        return listed.stdout.splitlines()

    def cut(self, index: int) -> None:
        """Unplug a host from the network; what runs there goes on."""
        _run("ip", "link", "set", f"stillv{index}", "down")

    def heal(self, index: int) -> None:
        """Plug it in again."""
        _run("ip", "link", "set", f"stillv{index}", "up")

    def kill(self, index: int) -> None:
        """Switch a host off: every process there ends at once."""
        init = self._inits[index]
        if init.poll() is None:
            os.killpg(init.pid, signal.SIGKILL)  # the first process of the host takes all others with it
            init.wait()

    def __exit__(self, *raised: object) -> None:
        for index in self._inits:
            self.kill(index)
        for index in range(self.count):
            for command in (("ip", "netns", "del", f"still{index}"), ("ip", "link", "del", f"stillv{index}")):
                subprocess.run(command, capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", BRIDGE], capture_output=True, check=False)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"

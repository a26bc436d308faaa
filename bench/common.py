"""Targets, process accounting and the result table shared by the drivers."""

import argparse
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from urllib.parse import urlsplit

TICK = os.sysconf("SC_CLK_TCK")


class Target:
    """One server under test, from `name=...,dimse=host:port:AET,web=URL,...`.

    name     label in the table
    dimse    host:port:AE title
    web      DICOMweb root URL
    token    bearer token
    tokenfile  file with the bearer token instead; read again after each reset
    pidfile  file with the server's process id; gives CPU and memory columns
    reset    command that restarts the server on an empty store
    """

    def __init__(self, text):
        self.name = "target"
        self.dimse = self.web = self.token = self.tokenfile = self.pidfile = self.reset_cmd = None
        for part in text.split(","):
            key, _, value = part.partition("=")
            if key == "name":
                self.name = value
            elif key == "dimse":
                host, port, aet = value.split(":")
                self.dimse = (host, int(port), aet)
            elif key == "web":
                self.web = value.rstrip("/")
            elif key == "token":
                self.token = value
            elif key == "tokenfile":
                self.tokenfile = value
            elif key == "pidfile":
                self.pidfile = value
            elif key == "reset":
                self.reset_cmd = value
            else:
                raise SystemExit(f"unknown target field {key!r}")
        self.read_token()

    def reset(self):
        if self.reset_cmd:
            subprocess.run(shlex.split(self.reset_cmd), check=True, stdout=subprocess.DEVNULL)
            self.read_token()

    def read_token(self):
        if self.tokenfile:
            with open(self.tokenfile) as f:
                self.token = f.read().strip()

    def pids(self):
        if not self.pidfile:
            return []
        try:
            with open(self.pidfile) as f:
                found = [int(x) for x in f.read().split()]
        except OSError:
            return []
        seen = []
        while found:
            pid = found.pop()
            seen.append(pid)
            try:
                for task in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{task}/children") as f:
                        found += [int(x) for x in f.read().split()]
            except OSError:
                pass
        return seen

    def cpu(self):
        total = 0
        for pid in self.pids():
            try:
                with open(f"/proc/{pid}/stat") as f:
                    fields = f.read().rpartition(")")[2].split()
                total += sum(int(x) for x in fields[11:15])
            except OSError:
                pass
        return total / TICK

    def peak_mb(self):
        total = 0
        for pid in self.pids():
            try:
                with open(f"/proc/{pid}/status") as f:
                    for line in f:
                        if line.startswith("VmHWM"):
                            total += int(line.split()[1])
            except OSError:
                pass
        return total / 1024

    def headers(self):
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}

    def host_port(self):
        u = urlsplit(self.web)
        return u.hostname, u.port or 80, u.path


class Table:
    """Rows are measure x target; each cell gathers one value per round."""

    def __init__(self, targets):
        self.order, self.cells, self.targets = [], {}, targets

    def add(self, measure, unit, target, value, cpu=None, rss=None, better="more"):
        key = (measure, unit, better)
        if key not in self.cells:
            self.cells[key] = {}
            self.order.append(key)
        self.cells[key].setdefault(target.name, []).append((value, cpu, rss))

    def show(self, out=sys.stdout):
        first = self.targets[0].name
        print(
            "| measure | unit | target | median | min | max | n | server CPU s | peak RSS MB | vs " + first + " |",
            file=out,
        )
        print("|---|---|---|---:|---:|---:|---:|---:|---:|---:|", file=out)
        for key in self.order:
            measure, unit, better = key
            base = [v for v, _, _ in self.cells[key].get(first, [])]
            for t in self.targets:
                got = self.cells[key].get(t.name)
                if not got:
                    continue
                vals = [v for v, _, _ in got]
                med = statistics.median(vals)
                cpu = [c for _, c, _ in got if c is not None]
                rss = [r for _, _, r in got if r]
                ratio = ""
                if base and t.name != first and med and statistics.median(base):
                    r = med / statistics.median(base)
                    ratio = f"{r if better == 'more' else 1 / r:.2f}x"
                low, high = fmt(min(vals)), fmt(max(vals))
                print(
                    f"| {measure} | {unit} | {t.name} | {fmt(med)} | {low} | {high} | {len(vals)} | "
                    f"{fmt(statistics.median(cpu)) if cpu else ''} | {fmt(max(rss)) if rss else ''} | {ratio} |",
                    file=out,
                )
        out.flush()


def fmt(v):
    return f"{v:.0f}" if abs(v) >= 100 else f"{v:.1f}" if abs(v) >= 10 else f"{v:.2f}" if abs(v) >= 0.1 else f"{v:.4f}"


def idle_share(seconds=0.4):
    def read():
        with open("/proc/stat") as f:
            v = [int(x) for x in f.readline().split()[1:]]
        return v[3] + v[4], sum(v[:8])

    i0, t0 = read()
    time.sleep(seconds)
    i1, t1 = read()
    return (i1 - i0) / max(1, t1 - t0)


class Clock:
    """Wall time and server CPU time of a block.

    With --quiet N it first waits, for N seconds at most, until the machine
    is at least 85 % idle, so that other work disturbs fewer samples.
    """

    quiet = 0.0

    def __init__(self, target):
        self.target = target
        until = time.monotonic() + Clock.quiet
        while time.monotonic() < until and idle_share() < 0.85:
            pass

    def __enter__(self):
        self.cpu0, self.t0 = self.target.cpu(), time.perf_counter()
        return self

    def __exit__(self, *exc):
        self.wall = time.perf_counter() - self.t0
        self.cpu = self.target.cpu() - self.cpu0 if self.target.pidfile else None
        self.rss = self.target.peak_mb() if self.target.pidfile else None


def dcmtk_tool(name):
    """Path of a DCMTK program.

    pynetdicom installs programs of the same names (storescu, getscu, ...)
    next to the interpreter; those are passed over.
    """
    own = os.path.dirname(os.path.abspath(sys.executable))
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if os.path.abspath(p) != own)
    return shutil.which(name, path=path) or sys.exit(f"{name} (DCMTK) not found")


def parser(doc):
    ap = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--target", action="append", required=True, metavar="SPEC", help=Target.__doc__)
    ap.add_argument("--rounds", type=int, default=3, help="A B A B rounds (default 3)")
    ap.add_argument("--only", default="", help="comma separated measures to run")
    ap.add_argument(
        "--quiet",
        type=quiet,
        metavar="N",
        default=0.0,
        help="wait up to N seconds for an idle machine before each sample",
    )
    return ap


def quiet(text):
    Clock.quiet = float(text)
    return Clock.quiet


def pick(args, known):
    chosen = [m for m in args.only.split(",") if m] or list(known)
    bad = [m for m in chosen if m not in known]
    if bad:
        raise SystemExit(f"unknown measure {bad}; known: {', '.join(known)}")
    return chosen


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, int(q * len(values)))]

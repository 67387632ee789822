"""Start the simulator alone, until Ctrl-C or SIGTERM."""

import argparse
import signal
import threading

from testkit.indodana.simulator import LOCAL_MERCHANTS, Simulator


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m testkit.indodana", description="Simulate Indodana's QRIS API.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9001, help="control and upstream API")
    parser.add_argument("--upstream-port", type=int, default=9002, help="upstream API alone")
    arguments = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with Simulator(LOCAL_MERCHANTS, arguments.host, arguments.port, arguments.upstream_port) as simulator:
        print(f"control   {simulator.control_url}", flush=True)
        print(f"upstream  {simulator.upstream_url}", flush=True)
        ended.wait()


if __name__ == "__main__":
    main()

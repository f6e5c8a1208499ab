"""A slow link: passes frames on between two network interfaces, late, and loses some.

    python tests/drill/slow_link.py INTERFACE INTERFACE DELAY_S LOST

What netem does, for kernels without it. The header of virtio before each frame says
which checksum is still to be computed and how to cut a frame that is larger than a
packet: the kernel has left both to the network card.
"""

import heapq
import random
import select
import socket
import sys
import time

ALL_PROTOCOLS = 3  # ETH_P_ALL
SOL_PACKET, PACKET_VNET_HDR = 263, 15
FRAME_MAX = 70_000


def attach(interface: str) -> socket.socket:
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PROTOCOLS))
    link.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    link.bind((interface, ALL_PROTOCOLS))
    return link


def pass_on(one: str, other: str, delay_s: float, lost: float) -> None:
    """Pass frames on until the process is killed; `lost` is a share of them."""
    ends = attach(one), attach(other)
    onward = {ends[0]: ends[1], ends[1]: ends[0]}
    late: list[tuple[float, int, socket.socket, bytes]] = []
    number = 0
    while True:
        wait_s = max(late[0][0] - time.monotonic(), 0.0) if late else None
        for end in select.select(ends, (), (), wait_s)[0]:
            frame, address = end.recvfrom(FRAME_MAX)
            if address[2] == socket.PACKET_OUTGOING or random.random() < lost:
                continue
            number += 1
            heapq.heappush(
                late, (time.monotonic() + delay_s, number, onward[end], frame)
            )
        while late and late[0][0] <= time.monotonic():
            _, _, end, frame = heapq.heappop(late)
            end.send(frame)


if __name__ == "__main__":
    pass_on(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))

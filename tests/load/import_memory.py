"""How the memory of an import grows with the number of its rows.

    DATABASE_URL=… python -m tests.load.import_memory [ROWS]

Pipes made-up rows into `manage.py import_items -`, first 10,000 and then ROWS (a
million), and prints the peak of resident memory of both and the difference.
"""

import os
import subprocess
import sys
import uuid


def peak_mb(rows: int) -> float:
    command = [sys.executable, "manage.py", "import_items", "-"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    batch = uuid.uuid4().hex[:8]
    assert process.stdin
    with process.stdin as file:
        file.write(b"id,name,description,tags\n")
        for n in range(rows):
            text = f"A part with the number {n} in hall {n % 41}"
            file.write(f"{batch}-{n},Part {n},{text},a b\n".encode())
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, status
    return usage.ru_maxrss / 1024


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    small, large = peak_mb(10_000), peak_mb(number)
    print(f"10,000 rows: {small:.0f} MB   {number:,} rows: {large:.0f} MB")
    print(f"growth: {large - small:.0f} MB")


if __name__ == "__main__":
    main()

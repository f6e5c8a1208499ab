if __name__ == "__main__":
    # Processes that this one starts import this file, too, and need nothing of it.
    from tests.load.bench.command import main

    raise SystemExit(main())

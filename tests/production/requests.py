raise ImportError("not installed in production")

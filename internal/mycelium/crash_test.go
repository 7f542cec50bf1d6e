package mycelium

const crashDir = "CELL_TEST_CRASH_DIR"

func crashChild(string) {}

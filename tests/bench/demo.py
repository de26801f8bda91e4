"""How long the demonstration takes that ends by itself."""

import importlib.util
import time
from pathlib import Path

from tests.bench.stage import python
from tests.bench.table import Row
from tests.children import Child

MODULE = "broker_master.demo"
GIVE_UP_S = 180.0


async def measure(directory: Path, rounds: int) -> list[Row]:
    if importlib.util.find_spec(MODULE) is None:
        print(f"  {MODULE} is not there", flush=True)
        return []
    demo = Child("demo", python(MODULE, "--once"), directory)
    began = time.monotonic()
    demo.launch()
    try:
        code = await demo.wait(GIVE_UP_S)
    finally:
        demo.kill()
        demo.end_orphans()
    if code:
        raise RuntimeError(f"the demonstration ended with {code}:\n{demo.last_words()}")
    return [Row("make demo ONCE=1", time.monotonic() - began, "s", target="<= 60")]

"""Texts of ExLlamaV2's generators over a model that computes nothing; nobody instruments them in code.

Call: ``exllamav2_app.py texts FOLDER``.
"""

import contextlib
import sys

from tests.support import tiny_exllamav2

dynamic = tiny_exllamav2.prepare()


def texts(_folder):
    generator = dynamic.ExLlamaV2DynamicGenerator(**tiny_exllamav2.options())
    generator.generate(["abc", "de"], 4)
    job = dynamic.ExLlamaV2DynamicJob(generator.tokenizer.encode("xyz"), 3)
    generator.enqueue(job)
    while generator.num_remaining_jobs():
        generator.iterate()
    job = dynamic.ExLlamaV2DynamicJob(generator.tokenizer.encode("uvw"), 50)
    generator.enqueue(job)
    while job.new_tokens < 1:
        generator.iterate()
    generator.cancel(job)
    with contextlib.suppress(AssertionError):
        generator.generate("abc", 9999)


globals()[sys.argv[1]](sys.argv[2])

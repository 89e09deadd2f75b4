"""An application that uses TinyEngine and knows nothing of telemetry.

opentelemetry-instrument --traces_exporter console --metrics_exporter console python app.py
"""

import contextlib

from tinyengine import Model, PromptTooLongError

model = Model("adder")
print(model.predict([[1, 2], [3, 4]]))
print(list(model.generate([3, 4], max_tokens=3)))
next(model.generate([1]))  # and the rest is not wanted
with contextlib.suppress(PromptTooLongError):
    list(model.generate([1] * 17))

"""The interface of TensorRT-LLM 1.2 that its instrumentation is written to.

Classes, methods and attributes are those of ``tensorrt_llm/llmapi/llm.py`` (``BaseLLM``, ``LLM``, ``RequestOutput``) and
``tensorrt_llm/executor/result.py`` (``GenerationResult``, ``CompletionOutput``) of NVIDIA/TensorRT-LLM: its wheels need a GPU.
"""

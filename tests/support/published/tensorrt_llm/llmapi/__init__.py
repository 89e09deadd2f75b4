"""What ``from tensorrt_llm import LLM`` finds too."""

from tensorrt_llm.llmapi.llm import LLM, RequestOutput, SamplingParams

__all__ = ["LLM", "RequestOutput", "SamplingParams"]

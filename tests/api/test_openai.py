#!/usr/bin/env python3
"""The openai Python package, unmodified, against the server with the bundled model: chat, completions, streams, logprobs, n, stop, errors.

    test_openai.py [--bin build/systolic]        skipped, visibly, where the package is not installed
"""
import sys

from server import BUNDLED, Server, run

try:
    import openai
except ImportError:
    print("test_openai: 0 passed, 0 failed, 1 skipped (the openai package is not installed)")
    sys.exit(0)

TESTS = []
def test(f):
    TESTS.append(f)
    return f

USER = [{"role": "user", "content": "Hello there"}]

@test
def models(c):
    names = [m.id for m in c.models.list()]
    assert names == ["tiny", "alias"], names

@test
def completion(c):
    r = c.completions.create(model="tiny", prompt="Once upon a time", max_tokens=12, temperature=0)
    assert r.object == "text_completion" and r.id.startswith("cmpl-") and r.choices[0].text
    assert r.choices[0].finish_reason in ("length", "stop")
    assert r.usage.total_tokens == r.usage.prompt_tokens + r.usage.completion_tokens

@test
def completion_stream_is_the_completion(c):
    args = dict(model="alias", prompt="Once upon a time", max_tokens=24, temperature=0)
    whole = c.completions.create(**args).choices[0].text
    chunks = list(c.completions.create(stream=True, stream_options={"include_usage": True}, **args))
    assert "".join(k.choices[0].text for k in chunks if k.choices) == whole
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0
    assert [k.choices[0].finish_reason for k in chunks if k.choices][-1] in ("length", "stop")

@test
def batches_and_n(c):
    r = c.completions.create(model="tiny", prompt=["One", "Two two"], n=3, max_tokens=4, temperature=1.0, seed=5)
    assert [k.index for k in r.choices] == list(range(6))
    again = c.completions.create(model="tiny", prompt=["One", "Two two"], n=3, max_tokens=4, temperature=1.0, seed=5)
    assert [k.text for k in r.choices] == [k.text for k in again.choices], "a seed repeats"

@test
def token_prompts(c):
    ids = c.completions.create(model="tiny", prompt="Once upon", max_tokens=1, temperature=0, extra_body={"return_token_ids": True})
    ids = ids.choices[0].model_extra["prompt_token_ids"]
    a = c.completions.create(model="tiny", prompt=ids, max_tokens=8, temperature=0)
    b = c.completions.create(model="tiny", prompt="Once upon", max_tokens=8, temperature=0)
    assert a.choices[0].text == b.choices[0].text

@test
def completion_logprobs(c):
    r = c.completions.create(model="tiny", prompt="Once upon a time", max_tokens=6, temperature=0, logprobs=3, echo=True)
    lp, ch = r.choices[0].logprobs, r.choices[0]
    assert len(lp.tokens) == len(lp.token_logprobs) == len(lp.top_logprobs) == len(lp.text_offset)
    assert lp.token_logprobs[0] is None and all(p <= 0 for p in lp.token_logprobs[1:])
    assert ch.text.startswith("Once upon a time")
    assert all(lp.tokens[i] in lp.top_logprobs[i] for i in range(1, len(lp.tokens)))

@test
def chat(c):
    r = c.chat.completions.create(model="tiny", messages=USER, max_tokens=16, temperature=0)
    m = r.choices[0].message
    assert m.role == "assistant" and isinstance(m.content, str) and m.tool_calls is None
    assert r.object == "chat.completion" and r.id.startswith("chatcmpl-")

@test
def chat_stream_is_the_chat(c):
    args = dict(model="tiny", messages=USER, max_completion_tokens=24, temperature=0)
    whole = c.chat.completions.create(**args).choices[0].message.content
    chunks = list(c.chat.completions.create(stream=True, stream_options={"include_usage": True}, **args))
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].choices[0].delta.content == ""
    assert "".join(k.choices[0].delta.content or "" for k in chunks if k.choices) == whole
    assert chunks[-1].usage.completion_tokens == sum(1 for k in chunks if k.choices) - 1

@test
def chat_n_stream(c):
    texts = {}
    for k in c.chat.completions.create(model="tiny", messages=USER, max_tokens=6, n=3, temperature=1.0, seed=1, stream=True):
        for ch in k.choices: texts[ch.index] = texts.get(ch.index, "") + (ch.delta.content or "")
    whole = c.chat.completions.create(model="tiny", messages=USER, max_tokens=6, n=3, temperature=1.0, seed=1)
    assert [texts[i] for i in range(3)] == [ch.message.content for ch in whole.choices]

@test
def chat_logprobs(c):
    r = c.chat.completions.create(model="tiny", messages=USER, max_tokens=5, temperature=0, logprobs=True, top_logprobs=4)
    content = r.choices[0].logprobs.content
    assert len(content) == r.usage.completion_tokens
    for t in content:
        assert len(t.top_logprobs) == 4 and t.top_logprobs[0].token == t.token
        assert bytes(t.bytes).decode() == t.token

@test
def stop_strings(c):
    whole = c.completions.create(model="tiny", prompt="Once upon a time", max_tokens=40, temperature=0).choices[0].text
    word = whole.split()[3]
    r = c.completions.create(model="tiny", prompt="Once upon a time", max_tokens=40, temperature=0, stop=[word, "\x01never"])
    assert r.choices[0].finish_reason == "stop" and r.choices[0].text == whole[:whole.index(word)]
    parts = c.completions.create(model="tiny", prompt="Once upon a time", max_tokens=40, temperature=0, stop=word, stream=True)
    assert "".join(k.choices[0].text for k in parts if k.choices) == whole[:whole.index(word)]

@test
def errors(c):
    cases = [
        (openai.NotFoundError, dict(model="nope", messages=USER)),
        (openai.BadRequestError, dict(model="tiny", messages=USER, temperature=9)),
        (openai.BadRequestError, dict(model="tiny", messages=USER, max_tokens=100000)),
        (openai.BadRequestError, dict(model="tiny", messages=USER, response_format={"type": "json_object"})),
        (openai.BadRequestError, dict(model="tiny", messages=USER, tools=[{"type": "function", "function": {"name": "f"}}])),
    ]
    for kind, args in cases:
        try: c.chat.completions.create(**args)
        except kind as e: assert e.body["message"] and e.body["code"] == e.status_code, e.body
        else: raise AssertionError(f"no {kind.__name__} for {args}")
    try: c.with_options(api_key="wrong").models.list()
    except openai.AuthenticationError: pass
    else: raise AssertionError("a wrong key was taken")

@test
def leaving_early(c):
    s = c.chat.completions.create(model="tiny", messages=USER, max_tokens=800, temperature=1.0, stream=True, extra_body={"ignore_eos": True})
    next(iter(s))
    s.close()

@test
def many_async(c):
    import asyncio
    async def go():
        a = openai.AsyncOpenAI(base_url=c.base_url, api_key=c.api_key)
        one = lambda i: a.completions.create(model="tiny", prompt=f"Number {i} is", max_tokens=12, temperature=0)
        together = await asyncio.gather(*(one(i) for i in range(32)))
        alone = [await one(i) for i in range(0, 32, 8)]
        assert [together[i].choices[0].text for i in range(0, 32, 8)] == [r.choices[0].text for r in alone], "the batch changes an answer"
    asyncio.run(go())

with Server(BUNDLED, "--served-model-name", "tiny", "alias", "--api-key", "secret") as s:
    client = openai.OpenAI(base_url=s.url + "/v1", api_key="secret", max_retries=0)
    cases = []
    for t in TESTS:
        cases.append(lambda t=t: t(client))
        cases[-1].__name__ = t.__name__
    run(cases)

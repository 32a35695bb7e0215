"""A chat server on this machine, which answers as a test wants it to."""

import contextlib
import dataclasses
import http.server
import json
import threading


@dataclasses.dataclass
class Answer:
    """Holds what is sent back: a body as bytes or an object, after a delay in seconds.

    With `cut` the connection ends after that many bytes of the body, before any header for 0.
    """

    body: object = b''
    status: int = 200
    headers: dict = dataclasses.field(default_factory=dict)
    delay: float = 0.0
    cut: int | None = None


def said(text, top=(), usage=(50, 5)):
    """Returns the body of an answer; `top` has (token, {token: logprob}) pairs."""
    choice = {'message': {'role': 'assistant', 'content': text}, 'finish_reason': 'stop'}
    if top:
        content = [
            {
                'token': token,
                'logprob': listed[token],
                'top_logprobs': [{'token': t, 'logprob': p} for t, p in listed.items()],
            }
            for token, listed in top
        ]
        choice['logprobs'] = {'content': content}
    body = {'choices': [choice]}
    if usage:
        body['usage'] = dict(zip(('prompt_tokens', 'completion_tokens'), usage, strict=True))
    return body


class ChatServer:
    """Serves until `close`.

    Attributes:
      reply: what makes an Answer, or the body of one, of a request's body.
      asked: (path, headers, body) of every request.
      url: the address for `--endpoint`.
    """

    def __init__(self, reply=lambda body: said('Answer: A.')):
        self.reply, self.asked, self._stop = reply, [], threading.Event()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
                outer.asked.append((self.path, dict(self.headers), body))
                answer = outer.reply(body)
                answer = answer if isinstance(answer, Answer) else Answer(answer)
                outer._stop.wait(answer.delay)
                content = answer.body
                if not isinstance(content, bytes):
                    content = json.dumps(content).encode()
                self.close_connection = True
                if answer.cut == 0:
                    return
                with contextlib.suppress(OSError):
                    self.send_response(answer.status)
                    self.send_header('Content-Length', str(len(content)))
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(content[: answer.cut])

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self._server.daemon_threads = True
        self.url = f'http://127.0.0.1:{self._server.server_address[1]}/v1'
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self):
        """Ends the server; requests under way are answered at once."""
        self._stop.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

"""gRPC's own services: health, for those that ask whether the node works, and reflection.

They are written here because `grpcio-health-checking` and `grpcio-reflection` need a protobuf at
least as new as their generator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from wasmsr.node.failures import SubmissionRefused
from wasmsr.rpc.control import control_messages as messages

SERVICES = (messages.CONTROL, messages.HEALTH, messages.REFLECTION)
"""The services that a node has, as reflection lists them."""

NOT_FOUND = 5
"""The number of the status in an answer of reflection."""

LOOK_SECONDS = 0.5
"""Seconds between two looks at what a watcher of health wants to know."""


class ControlCall(NamedTuple):
    """What a method gets of its call: the caller's name, and whether it still waits."""

    caller: str
    is_active: Callable[[], bool]


def first_of(requests: Iterator[Any]) -> Any:
    """Return the first message of a call. Raises SubmissionRefused if there is none."""
    request = next(requests, None)
    if request is None:
        raise SubmissionRefused("a message was expected")
    return request


class HealthCalls:
    """The methods of `grpc.health.v1.Health`."""

    def __init__(self, stopping: Callable[[], bool], wait: Callable[[float], object]) -> None:
        """Make them.

        Args:
            stopping: Returns whether the node takes no programs any more.
            wait: Waits for so many seconds, or shorter.
        """
        self._stopping, self._wait = stopping, wait

    def _status(self, service: str) -> int:
        kinds = messages.HealthResponse
        if service not in ("", *SERVICES):
            return int(kinds.SERVICE_UNKNOWN)
        return int(kinds.NOT_SERVING if self._stopping() else kinds.SERVING)

    def Check(self, requests: Iterator[Any], call: ControlCall) -> Iterator[Any]:
        """Answer whether a service works. Raises KeyError if there is none of that name."""
        request = first_of(requests)
        status = self._status(request.service)
        if status == messages.HealthResponse.SERVICE_UNKNOWN:
            raise KeyError(request.service)
        yield messages.HealthResponse(status=status)

    def Watch(self, requests: Iterator[Any], call: ControlCall) -> Iterator[Any]:
        """Answer the same at once and after each change."""
        request, last = first_of(requests), -1
        while call.is_active():
            status = self._status(request.service)
            if status != last:
                yield messages.HealthResponse(status=status)
            last = status
            self._wait(LOOK_SECONDS)


class ReflectionCalls:
    """The method of `grpc.reflection.v1.ServerReflection`."""

    def ServerReflectionInfo(self, requests: Iterator[Any], call: ControlCall) -> Iterator[Any]:
        """Answer questions for services and for the files that describe them."""
        for request in requests:
            reply = messages.ReflectionResponse(valid_host=request.host, original_request=request)
            what = request.WhichOneof("message_request")
            if what == "list_services":
                for name in SERVICES:
                    reply.list_services_response.service.add(name=name)
            else:
                name = request.file_by_filename
                if what == "file_containing_symbol":
                    name = messages.file_of(request.file_containing_symbol) or ""
                if name in messages.FILES:
                    found = reply.file_descriptor_response
                    found.file_descriptor_proto.append(messages.FILES[name])
                else:
                    reply.error_response.error_code = NOT_FOUND
                    reply.error_response.error_message = "there is nothing of that name"
            yield reply

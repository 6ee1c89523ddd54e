"""A gRPC client of stock parts only: grpcio, and what its compiler makes of calculator.proto.

    python3 client.py SCENARIO ADDRESS CA [CERTIFICATE KEY]

Ends with 0 if the calculator did all that the scenario expects.
"""

import queue
import sys

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

import calculator_pb2 as messages
import calculator_pb2_grpc as services

SERVICE = "calculator.v1.Calculator"
PATIENCE = 20


def read(path):
    with open(path, "rb") as file:
        return file.read()


def connect(address, ca, certificate=None, key=None):
    credentials = grpc.ssl_channel_credentials(
        root_certificates=read(ca),
        private_key=key and read(key),
        certificate_chain=certificate and read(certificate),
    )
    return grpc.secure_channel(address, credentials)


def fails_with(code, call):
    try:
        answer = call()
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()}: {error.details()}"
        return error
    raise AssertionError(f"answered {answer} instead of {code}")


def number(value):
    return messages.Number(value=value)


class Said:
    """A stream of requests that goes on as the test says."""

    def __init__(self):
        self.queue = queue.Queue()

    def say(self, value):
        self.queue.put(number(value))

    def end(self):
        self.queue.put(None)

    def __iter__(self):
        return self

    def __next__(self):
        said = self.queue.get()
        if said is None:
            raise StopIteration
        return said


def unary(channel):
    calculator = services.CalculatorStub(channel)
    sum_of = lambda a, b: calculator.Add(messages.AddRequest(a=a, b=b), timeout=PATIENCE)
    assert sum_of(2, -5).sum == -3
    error = fails_with(grpc.StatusCode.OUT_OF_RANGE, lambda: sum_of(2**63 - 1, 1))
    assert error.details() == "9223372036854775807 and 1 make more than 64 bits hold"
    trailers = dict(error.trailing_metadata())
    typed = messages.CalculatorError.FromString(trailers["application-error-bin"])
    assert (typed.sum, typed.value) == (2**63 - 1, 1)


def streaming(channel):
    calculator = services.CalculatorStub(channel)
    numbers = lambda: iter([number(1), number(2), number(3)])
    assert calculator.Total(numbers(), timeout=PATIENCE).sum == 6
    for a in (10, 20):
        calculator.Add(messages.AddRequest(a=a, b=1), timeout=PATIENCE)
    history = calculator.History(messages.HistoryRequest(since=0), timeout=PATIENCE)
    assert [entry.sum for entry in history] == [11, 21]
    # Each answer comes while the next request is still to be said.
    said = Said()
    totals = calculator.RunningTotal(said, timeout=PATIENCE)
    for value, total in ((5, 5), (7, 12), (-2, 10)):
        said.say(value)
        assert next(totals).value == total
    said.end()
    assert list(totals) == []
    assert totals.code() == grpc.StatusCode.OK


def deadline(channel):
    calculator = services.CalculatorStub(channel)
    said = Said()
    said.say(1)
    totals = calculator.RunningTotal(said, timeout=0.5)
    assert next(totals).value == 1
    fails_with(grpc.StatusCode.DEADLINE_EXCEEDED, lambda: next(totals))
    said.end()


def cancellation(channel):
    calculator = services.CalculatorStub(channel)
    said = Said()
    said.say(1)
    totals = calculator.RunningTotal(said)
    assert next(totals).value == 1
    print("running", flush=True)
    sys.stdin.readline()
    totals.cancel()
    fails_with(grpc.StatusCode.CANCELLED, lambda: next(totals))
    print("cancelled", flush=True)
    # The connection lives on: what the server drops, it drops for the cancelled call alone.
    sys.stdin.readline()
    said.end()
    unary(channel)


def compression(channel):
    calculator = services.CalculatorStub(channel)
    request = messages.AddRequest(a=2**40, b=1)
    compressed = lambda: calculator.Add(
        request, timeout=PATIENCE, compression=grpc.Compression.Gzip
    )
    fails_with(grpc.StatusCode.UNIMPLEMENTED, compressed)
    unary(channel)


def health(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    check = lambda service: stub.Check(
        health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE
    )
    assert check("").status == serving
    assert check(SERVICE).status == serving
    fails_with(grpc.StatusCode.NOT_FOUND, lambda: check("calculator.v1.Nothing"))


def drain(channel):
    calculator = services.CalculatorStub(channel)
    said = Said()
    said.say(1)
    totals = calculator.RunningTotal(said, timeout=PATIENCE)
    assert next(totals).value == 1
    stub = health_pb2_grpc.HealthStub(channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=PATIENCE)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    print("running", flush=True)
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    said.say(2)
    assert next(totals).value == 3
    said.end()
    assert list(totals) == []
    assert totals.code() == grpc.StatusCode.OK


def reflection(channel):
    known = ProtoReflectionDescriptorDatabase(channel)
    assert list(known.get_services()) == [
        SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
    ]
    pool = descriptor_pool.DescriptorPool(known)
    calculator = pool.FindServiceByName(SERVICE)
    assert list(calculator.methods_by_name) == ["Add", "History", "Total", "RunningTotal"]
    for own in ("grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"):
        assert pool.FindServiceByName(own).methods
    # A call made of nothing but what the server told.
    add = calculator.methods_by_name["Add"]
    request = message_factory.GetMessageClass(add.input_type)
    response = message_factory.GetMessageClass(add.output_type)
    call = channel.unary_unary(
        f"/{SERVICE}/Add",
        request_serializer=request.SerializeToString,
        response_deserializer=response.FromString,
    )
    assert call(request(a=20, b=22), timeout=PATIENCE).sum == 42


def refused(channel):
    calculator = services.CalculatorStub(channel)
    call = lambda: calculator.Add(messages.AddRequest(a=1, b=2), timeout=PATIENCE)
    fails_with(grpc.StatusCode.UNAVAILABLE, call)


SCENARIOS = [
    unary,
    streaming,
    deadline,
    cancellation,
    compression,
    health,
    drain,
    reflection,
    refused,
]

if __name__ == "__main__":
    scenario = {it.__name__: it for it in SCENARIOS}[sys.argv[1]]
    with connect(*sys.argv[2:]) as channel:
        scenario(channel)

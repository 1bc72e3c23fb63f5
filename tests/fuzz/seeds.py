#!/usr/bin/env python3
"""Writes tests/fuzz/seeds: for each target a few inputs that reach its inside."""
import pathlib
import struct

HERE = pathlib.Path(__file__).parent


def text(value: bytes) -> bytes:
    return struct.pack(">H", len(value)) + value


def packet(first: int, body: bytes) -> bytes:
    assert len(body) < 128
    return bytes([first, len(body)]) + body


def traffic(v5: bool) -> bytes:
    none = b"\0" if v5 else b""
    return b"".join([
        packet(0x82, b"\0\1" + none + text(b"+/b") + b"\2" + text(b"#") + b"\1"),
        packet(0x31, text(b"a/b") + none + b"kept"),
        packet(0x32, text(b"a/b") + b"\0\7" + none + b"x"),
        packet(0x34, text(b"a/c") + b"\0\x08" + none + b"y"),
        packet(0x62, b"\0\x08"),
        packet(0x40, b"\0\1"),
        packet(0x50, b"\0\2"),
        packet(0x70, b"\0\2"),
        packet(0xC0, b""),
        packet(0xA2, b"\0\2" + none + text(b"+/b")),
        packet(0xE0, b"\4\0" if v5 else b""),
    ])


def harm(kind: int, value: int, *numbers: int) -> bytes:
    return struct.pack("<BBHHH", kind, value, *numbers)


def main() -> None:
    properties = bytes([20]) + b"\x01\x01\x02\0\0\0\x09" + b"\x03" + text(b"t") + b"\x26" + text(b"n") + text(b"v")
    rich = packet(0x32, text(b"a/b") + b"\0\x09" + bytes([len(properties) - 1]) + properties[1:] + b"z")
    both = traffic(False) + traffic(True)
    rules = HERE.parent.parent / "rules"
    golden = HERE.parent / "golden" / "rules"
    publishes = {"10": b"plant1/packaging/wrapper3/speed\nc\n{\"rpm\": 1}", "20": b"gw07-press/temp/oil\nc\n{\"v\": 61.5}",
                 "30": b"iotgateway/a\nc\n{}", "40": b"plant1/x/y/z\nc\n12.0"}
    seeds = {
        "mqtt_connection": [
            bytes([0o02, 0, 255]) + traffic(False),
            bytes([0o04, 3, 255]) + traffic(True),
            bytes([0o25, 4, 128]) + both,
            bytes([0o42, 9, 100]) + both,
            bytes([0o06, 8, 255]) + rich + traffic(True),
            bytes([0o33, 8, 128]) + both,
        ],
        "session_restart": [
            bytes([0, 0, 128]) + both,
            bytes([0, 3, 100]) + traffic(True)[:-4] + traffic(True),
            bytes([255, 0, 0xff]) + b"\x01" + bytes(8) + b"\1<\0\0\0" + bytes(20) + b"\1\0\0\0a",
        ],
        "topic_filter": [b"a/+/c\n#\n$SYS/#\n+/+\na/b/c", b"$SYS/#\n#\n$SYS/a"],
        "rule_file_then_publish": [
            file.read_bytes() + b"\n" + publishes.get(file.name[:2], b"a/b/c\nc\n{\"a\": 1}") for file in sorted(rules.glob("*.toml"))
        ] + [
            (golden / name).read_bytes() + b"\n" + publish for name, publish in [
                ("window.toml", b"per/a/x\nc\n{\"motor\":{\"temp\":70},\"state\":\"run\"}"),
                ("restraint.toml", b"throttle-result/a/x/1\nc\n{\"slot\":1}"),
                ("twin.toml", b"plant/press7/tool/1\npress-7\n{\"motor\":{\"speed\":12}}"),
                ("command.toml", b"plc/press7/set\npress7\n{\"value\":12}"),
                ("script.toml", b"a/b\nc\n{\"a\":[1,2]}"),
            ]
        ],
        "spool_recover": [
            harm(0, 1, 5000, 0, 0) + harm(0x13, 0, 4200, 0, 300),
            harm(0x16, 0, 6000, 0, 0) + harm(0x14, 0, 8192, 4096, 4096),
            harm(0x1B, 0, 0, 0, 0) + harm(0xC, 3, 21, 0, 0) + harm(0x2A, 0, 7, 0, 0),
            harm(9, 40, 0xFFFF, 0, 0) + harm(8, 1, 3, 9, 0),
        ],
        "way_back": [
            b"devices/d/messages/devicebound/%24.mid=m-1&iothub-ack=full&a=b{\"b\":1,\"c\":2}",
            b"$iothub/methods/POST/reboot/?$rid=1" + b"a=1&%24.mid=x{\"b\":\"y\"}",
        ],
        "property_bag": [b"a=1&b=&c&%24.ct=x%2Fy&a=%C3%BC%ff", b"devices/d/messages/events/a=b&c=d/"],
        "record": [
            b"\1\1" + struct.pack("<q", 1) + b"\1\0d" + b"\1\0" + b"\1\0n\1\0v" + b"{}",
            b"\1\4" + struct.pack("<q", -1) + b"\0\0" + b"\1\0a\1\0b" + b"\0\0" + b"x",
            b"\1\5" + struct.pack("<q", 0) + b"\0\0" + b"\1\0" + b"\0\0\3\0a=b",
        ],
        "config": [
            b'rules = "r"\n[uplink]\nconnection_string = "HostName=h;DeviceId=d;SharedAccessKey=${KEY}"\n[spool]\nmax_size = "1 GB"\n',
            b'[broker]\nlisten = "0.0.0.0:1883"\n[uplink]\nkind = "mqtt"\n[uplink.mqtt]\ntopic = "{device}/{topic}"\n',
        ],
        "connection_string": [
            b"HostName=h.azure-devices.net;DeviceId=d;SharedAccessKey=c2VjcmV0IGtleSBvZiB0aGUgcGxhbnQ=",
            b'"HostName=h;DeviceId=d;ModuleId=m;x509=true;GatewayHostName=fe80::1"',
            b"HostName=h;DeviceId=d;SharedAccessSignature=SharedAccessSignature sr=h%2Fdevices%2Fd&sig=YQ%3D%3D&se=1",
            b"h/d/m/?api-version=2021-04-12&DeviceClientType=a%20b",
        ],
    }
    for target, inputs in seeds.items():
        folder = HERE / "seeds" / target
        folder.mkdir(parents=True, exist_ok=True)
        for number, value in enumerate(inputs):
            (folder / str(number)).write_bytes(value)


main()

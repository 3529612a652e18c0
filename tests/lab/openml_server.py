"""A small stand-in for OpenML, for tests of what comes from there."""

import hashlib
import io
import json
from email.message import Message

__all__ = ["Response", "Server"]


class Response(io.BytesIO):
    def info(self):
        return Message()


class Server:
    """Stands in for urlopen: answers OpenML's four addresses from memory.

    Args:
        pixels: of the samples, a row each.
        labels: as many, written as they are.
        data_id: OpenML's number of the set.
    """

    def __init__(self, pixels, labels, data_id=77):
        rows = "\n".join(",".join(map(str, [*row, label])) for row, label in zip(pixels, labels, strict=True))
        classes = ",".join(sorted({str(label).strip("'") for label in labels}))
        names = [f"p{i}" for i in range(pixels.shape[1])]
        head = "".join(f"@ATTRIBUTE {name} NUMERIC\n" for name in names)
        self.arff = f"@RELATION small\n{head}@ATTRIBUTE class {{{classes}}}\n@DATA\n{rows}\n".encode()
        features = [
            {
                "index": str(index),
                "name": name,
                "data_type": "nominal" if name == "class" else "numeric",
                "is_target": str(name == "class").lower(),
                "is_ignore": "false",
                "is_row_identifier": "false",
                "number_of_missing_values": "0",
            }
            for index, name in enumerate([*names, "class"])
        ]
        description = {
            "id": str(data_id),
            "name": "small",
            "version": "1",
            "description": "",
            "format": "ARFF",
            "status": "active",
            "url": f"https://www.openml.org/data/v1/download/{data_id}/small.arff",
            "md5_checksum": hashlib.md5(self.arff).hexdigest(),
        }
        quality = [{"name": "NumberOfInstances", "value": str(len(pixels))}]
        self.answers = {
            f"/api/v1/json/data/{data_id}": json.dumps({"data_set_description": description}).encode(),
            f"/api/v1/json/data/features/{data_id}": json.dumps(
                {"data_features": {"feature": features}}
            ).encode(),
            f"/api/v1/json/data/qualities/{data_id}": json.dumps(
                {"data_qualities": {"quality": quality}}
            ).encode(),
            f"/data/v1/download/{data_id}/small.arff": self.arff,
        }
        self.asked = []

    def __call__(self, request):
        self.asked.append(request.selector)
        return Response(self.answers[request.selector])

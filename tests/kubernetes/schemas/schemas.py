"""Says which Kubernetes objects do not fit the OpenAPI schemas of a version of Kubernetes.

    schemas.py VERSION FILE...

Prints a JSON object: how many objects were checked, which have no schema, what is wrong with the
others. Fields that a schema does not know are wrong.
"""

import functools
import json
import sys

import yaml
from kubernetes_validate import utils

# It reads the whole of the definitions anew for each object.
utils.schema_contents = functools.lru_cache(maxsize=None)(utils.schema_contents)


def main(version, files):
    checked, unknown, wrong = 0, [], []
    for file in files:
        with open(file, encoding="utf-8") as text:
            documents = [d for d in yaml.safe_load_all(text) if d]
        for document in documents:
            what = f"{document.get('kind')} {document.get('metadata', {}).get('name')}"
            try:
                used = utils.validate(document, version, strict=True)
                if used != version:
                    wrong.append(f"{file}: there are no schemas of {version}")
                checked += 1
            except utils.SchemaNotFoundError:
                unknown.append(f"{document['apiVersion']} {document['kind']}")
            except utils.ValidationError as error:
                path = ".".join(str(part) for part in error.path)
                wrong.append(f"{file}: {what}: {path}: {error.message[:500]}")
    print(json.dumps({"checked": checked, "unknown": sorted(set(unknown)), "wrong": wrong}))


main(sys.argv[1], sys.argv[2:])

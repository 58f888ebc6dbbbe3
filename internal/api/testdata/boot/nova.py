# Writes vendor_data2.json as Nova does, from the answers of its targets:
# nova.py NAME ANSWER...
import json
import sys

answers = sys.argv[1:]
print(json.dumps({name: json.loads(text) for name, text in zip(answers[::2], answers[1::2])}))

"""The results for machines that read JUnit's XML."""

import re
from xml.etree import ElementTree as ET

from ._summary import Run, Summary, family

ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, such as those that colour a terminal."""


def junit(run: Run) -> str:
    """A test suite for each of our subjects; what deviates is skipped with its reason."""
    summary = Summary(run)
    root = ET.Element("testsuites", name="xent-any conformance", time=f"{run['seconds']:.3f}")
    for name in summary.ours:
        counts, seconds = summary.total[name].counts, f"{summary.subjects[name]['seconds']:.3f}"
        suite = ET.SubElement(root, "testsuite", name=name, time=seconds, timestamp=run["date"], errors="0")
        suite.set("tests", str(counts.total()))
        suite.set("failures", str(counts["failed"]))
        suite.set("skipped", str(counts["skipped"] + counts["deviates"]))
        for result in (result for result in summary.results if result["subject"] == name):
            attributes = {"classname": f"{name}.{family(result['id'])}", "time": f"{result['seconds']:.4f}"}
            case = ET.SubElement(suite, "testcase", attributes, name=result["id"])
            kind, reason = result["outcome"], ILLEGAL.sub("", result["reason"])
            if kind == "failed":
                ET.SubElement(case, "failure", message=result["statement"]).text = reason
            elif kind != "passed":
                ET.SubElement(case, "skipped", message=reason if kind == "skipped" else f"{kind}: {reason}")
    for each in run["unusable"]:
        suite = ET.SubElement(root, "testsuite", name=each["name"], tests="1", failures="0", errors="0", skipped="1")
        case = ET.SubElement(suite, "testcase", classname=each["name"], name="usable", time="0")
        ET.SubElement(case, "skipped", message=ILLEGAL.sub("", each["reason"]))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"

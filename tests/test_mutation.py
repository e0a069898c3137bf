"""The account of a mutation run: which survivors it excuses, and what it says of the code."""

import sqlite3
import subprocess

import mutation
import pytest

TEXT = "def f(x):\n    return x + 1\n\n\ndef g(x):\n    return x + 1\n"


@pytest.fixture
def explained(monkeypatch):
    monkeypatch.setattr(mutation, "EXPLAINED", {"It is equivalent.": [["f", "return x + 1", "return x - -1"]]})


@pytest.mark.parametrize(
    ("row", "new", "why"),
    [
        (2, "return x - -1", "It is equivalent."),
        (2, "return x - 1", ""),
        (2, "return x - -1 + 0", ""),
        (6, "return x - -1", ""),  # in another function
    ],
)
def test_a_reason_is_that_of_a_whole_mutant(explained, row, new, why):
    diff = f"--- a\n+++ b\n@@ -1 +1 @@\n-    return x + 1\n+    {new}\n"
    assert mutation.survivor(TEXT, "core/Op", row, "SURVIVED", "", diff)["why"] == why


def test_the_record_says_whether_the_tree_was_clean(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=tmp_path, check=True)

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "first")
    clean = mutation.tree(tmp_path)
    assert clean["clean"]
    assert len(clean["commit"]) >= 7
    (tmp_path / "new").touch()
    assert mutation.tree(tmp_path) == clean | {"clean": False}


def test_a_sample_is_drawn_by_its_seed(tmp_path):
    left = []
    for seed in (1, 1, 2):
        path = tmp_path / f"{len(left)}.sqlite"
        with sqlite3.connect(path) as database:
            columns = "job_id, operator_name, start_pos_row, start_pos_col, occurrence"
            database.execute(f"create table mutation_specs ({columns})")
            database.execute("create table work_items (job_id)")
            database.execute("create table work_results (job_id, worker_outcome)")
            for number in range(40):
                database.execute("insert into mutation_specs values (?, 'op', ?, 0, 0)", (str(number), number))
                database.execute("insert into work_items values (?)", (str(number),))
            database.execute("insert into work_results values ('3', 'SKIPPED')")  # by a filter
        mutation.sample(path, 5, seed)
        with sqlite3.connect(path) as database:
            left.append({job for (job,) in database.execute("select job_id from work_items")})
    assert left[0] == left[1] != left[2]
    assert all(len(jobs) == 6 and "3" in jobs for jobs in left)

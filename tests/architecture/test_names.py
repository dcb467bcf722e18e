"""Names in the source are words of the field's vocabulary, and functions are verbs (CONTRIBUTING.md)."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "tidings"
VOCABULARY = ROOT / "tests" / "architecture" / "vocabulary.txt"
GLOSSARY = ROOT / "docs" / "glossary.md"


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


#: the style guide's counter-examples; "room" is a term of presence and stands in the glossary
REJECTED = words_of(
    """again alone answer answered answers anybody apart asked asking away base common desk everybody gate heard helper
    helpers holder known learnt manager misc nobody said somebody standing steady told turns understood util utils
    wanted whoever whose"""
)

VERBS = words_of(
    """abandon abort accept ack aclose acquire add adopt advance allocate analyze apply archive ask authenticate
    authorize batch begin bind block build calculate call can cancel capture check choose chunk claim classify
    clean clear close collect commit compare complete compose compute configure confirm connect consume convert
    copy count create decide decode decrypt defer delay delete deliver deregister derive describe detect digest
    discard downgrade drain drip drop edit encode encrypt end enqueue ensure erase escape estimate evaluate evict
    exceed execute expand expire explain export extend extract fail fetch filter find finish flush format forward freeze
    generate get give group handle hang has hash heartbeat identify import insert install invalidate is issue
    iter join kill leave lend lift limit lint list load lock log lookup make map mark match measure merge migrate mint
    mock move mute nack normalize notify open order pad page paginate parse pause peek pin ping plan poll pop post
    prefetch preflight prepare preview prime print probe process publish purge push put query quiesce raise rank read
    reap recall receive reconcile record recover redact redeem redeliver refresh register reject relay release
    reload remove render renew repeat replace replay report republish request requeue require reschedule reserve reset
    resolve respond restart restore resume retire retry return revoke rollback rotate round route run save scan
    schedule seed select send serialize serve set settle shield ship show shrink shut sign skip sleep snapshot
    snooze sort spawn split start stop store stream strip submit subscribe supersede suppress sweep sync take
    terminate test throttle to trim truncate try unarchive unbind unlock unregister unsubscribe update upgrade
    upsert use validate verify wait wake walk warn watch with withdraw wrap write yield"""
)

#: first words that are conventions of their own: a conversion, a changed copy, a constructor, an event handler
PREFIXES = {"for", "from", "in", "on", "to", "with", "without"}
BOOLEAN_PREFIXES = {"can", "has", "is"}

#: functions that are not named by a verb, and why
EXCEPTIONS = {
    "called by a framework under this name": """connection_lost connection_made data_received empty
        settings_customise_sources startup""",
    "the language in which a pack describes audiences": """attribute becomes being_informed city country engaged
        everyone favourited favourited_host informed informed_before near not_engaged opted_in saved targets_only
        ticket_holders timezones topic users""",
    "the names that library users and the documentation know": "trace",
    "names a default that stands for a field left out": "omitted",
    "reads as the condition that it waits for": "eventually",
    "makes the router of its module": "router",
    "the entry point of `python -m`": "main",
    "an operation with a term of its own": "dry_run",
    "returns a context manager": "idempotent",
    "the names of assertions": "assert_not_notified assert_notified assert_signed",
    "used like a class: a column type, a Hypothesis strategy": "BinaryText populations",
    "a comparison that reads as a condition": "exceeds_mass_deletion_threshold",
    "reads a property that an adapter or another process has": """detail destination external_stats instance_id
        last_epoch required_variables senders share stats url subscription messages receipts times""",
    "pure: named for the value that it returns": """after attempt_row before_expiry blind_index cacheable_response
        caller_of change_snapshot client_key collapse_key command_line connection_of connection_options
        contact_point_response cpu_seconds current_key default_workers delivery_row demo_user_id device_names
        device_response due_after due_at error_headers error_message error_response error_result event_row
        event_subject expected_members expiry_for explanation_response explicit_users_or_none fan_out_task field_path
        file_response free_port hash_fraction host_message html_to_text http_status id_array intake_queue_name
        item_key json_object key keyed_request limit_scope membership_condition mentioned_user_ids
        message_subject metric min_uuid_at missing_ids new_id next_check_at next_due_at next_epoch next_occurrence
        next_page_task next_retry_slot next_run_at notification_for_update now outcome_row partition_name problem_for
        public_key
        publication_notice rate_limited remaining remaining_after request_fingerprint response result
        rowset scalar scalars schema_status schema_statuses secret_path single_user_id skip_row sources
        subscription_json superseded_detail template_variables text_array ticket_status unknown_users_error
        user_not_found variable_name""",
}


@dataclass(frozen=True)
class Name:
    """A public name of a module, class or function."""

    text: str
    place: str

    @property
    def words(self) -> list[str]:
        return split_words(self.text)

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


@dataclass(frozen=True)
class FunctionName(Name):
    """A public name of a function."""

    returns: str
    decorators: tuple[str, ...]

    @property
    def is_context_manager(self) -> bool:
        return "ContextManager" in self.returns or any("contextmanager" in name for name in self.decorators)

    @property
    def is_property(self) -> bool:
        return any(name.rpartition(".")[2] in {"property", "cached_property", "setter"} for name in self.decorators)

    @property
    def is_bool(self) -> bool:
        return self.returns == "bool"


def split_words(name: str) -> list[str]:
    """Split snake_case and CamelCase into lower-case words. Numbers are left out."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+\d*", name)]


def read_glossary_words() -> set[str]:
    """Return the words of the glossary's headwords, in the singular and in the plural."""
    text = GLOSSARY.read_text(encoding="utf-8")
    headwords = [
        term for row in re.findall(r"^\| (\*\*.+?) \|", text, re.M) for term in re.findall(r"\*\*(.+?)\*\*", row)
    ]
    words = {word for term in headwords for word in re.findall(r"[a-z]+", term.lower())}
    return words | {f"{word}s" for word in words}


def read_vocabulary() -> list[str]:
    return VOCABULARY.read_text(encoding="utf-8").split()


@cache
def list_names() -> tuple[Name, ...]:
    """Return the public names of modules, packages, classes, functions and methods in `src`."""
    return tuple(name for path in sorted(SOURCE.rglob("*.py")) for name in list_names_in(path))


def list_names_in(path: Path) -> Iterator[Name]:
    place = path.relative_to(SOURCE).as_posix()
    # the number of a migration is not a word
    yield Name(re.sub(r"^m\d+_", "", path.parent.name if path.stem == "__init__" else path.stem), place)
    yield from list_names_of(ast.parse(path.read_text(encoding="utf-8")).body, place)


def list_names_of(body: list[ast.stmt], place: str) -> Iterator[Name]:
    for node in body:
        # a test's name is a sentence (`testing/contracts`)
        if getattr(node, "name", "_").startswith(("_", "test_")):
            continue
        if isinstance(node, ast.ClassDef):
            yield Name(node.name, place)
            yield from list_names_of(node.body, place)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = tuple(ast.unparse(decorator) for decorator in node.decorator_list)
            yield FunctionName(node.name, place, ast.unparse(node.returns) if node.returns else "", decorators)


def list_functions() -> list[FunctionName]:
    return [name for name in list_names() if isinstance(name, FunctionName) and not name.is_property]


def test_names_consist_of_words_of_the_vocabulary() -> None:
    allowed = {*read_vocabulary(), *read_glossary_words()}
    unknown = [f"{name} ({word})" for name in list_names() for word in name.words if word not in allowed]
    assert unknown == [], "use the field's term, or add the word to docs/glossary.md / vocabulary.txt"


def test_vocabulary_is_sorted_and_without_repetition() -> None:
    words = read_vocabulary()
    assert words == sorted(set(words))


def test_vocabulary_does_not_contain_rejected_words() -> None:
    assert REJECTED.intersection(read_vocabulary()) == set()


def test_public_functions_start_with_a_verb() -> None:
    excepted = {name for names in EXCEPTIONS.values() for name in names.split()}
    nouns = [
        str(name)
        for name in list_functions()
        # a context manager is named for what the `with` block holds, a command function for its command
        if not (name.is_context_manager or name.place.startswith("cli/"))
        and name.text not in excepted
        and name.words[0] not in VERBS | PREFIXES
    ]
    assert nouns == [], "start with an imperative verb, or add the name to EXCEPTIONS with the reason"


def test_functions_that_read_as_a_question_return_a_boolean() -> None:
    questions = [name for name in list_functions() if name.words[0] in BOOLEAN_PREFIXES]
    assert questions != []
    assert [str(name) for name in questions if not name.is_bool] == []

"""Which functions, table functions, engines and formats a user of the store may name.

Built at start from the engine's own lists: whole categories of pure functions are allowed, what reaches files, the
network, dictionaries, settings of the process or other queries is not. A function that a later engine adds in a
category not named here is refused until somebody looked at it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# system.functions.categories whose functions compute from their arguments alone.
_PURE = frozenset({
    "Aggregate Functions", "Arithmetic", "Arrays", "Bit", "Bitmap", "Comparison", "Conditional", "Dates and Times",
    "Distance", "Encoding", "Encryption", "Financial", "Geo", "Geo Polygon", "Hash", "IP Address", "JSON", "Logical",
    "Map", "Mathematical", "Null", "NumericIndexedVector", "QBit", "Random Number", "Rounding", "Statistics",
    "String", "String Replacement", "String Search", "String Splitting", "Time Window", "Tuple", "Type Conversion",
    "URL", "UUID",
})  # fmt: skip

# Of the category `Other`, which also holds file(), sleep(), joinGet(), hasColumnInTable() (it connects to a host).
_PURE_OTHERS = frozenset({
    "MACNumToString", "MACStringToNum", "MACStringToOUI", "bar", "blockNumber", "byteSize", "connectionId",
    "countDigits", "currentDatabase", "currentSchemas", "currentUser", "defaultValueOfArgumentType",
    "defaultValueOfTypeName", "digits", "displayName", "dumpColumnStructure", "finalizeAggregation", "formatQuery",
    "formatQueryOrNull", "formatQuerySingleLine", "formatQuerySingleLineOrNull", "formatReadableDecimalSize",
    "formatReadableQuantity", "formatReadableSize", "formatReadableTimeDelta", "getSetting", "getSizeOfEnumType",
    "getSubcolumn", "hostName", "identity", "ignore", "indexHint", "initialQueryID", "initializeAggregation",
    "isConstant", "lowCardinalityIndices", "lowCardinalityKeys", "materialize", "neighbor", "normalizeQuery",
    "normalizeQueryKeepNames", "normalizedQueryHash", "normalizedQueryHashKeepNames", "parseISO8601Duration",
    "parseReadableSize", "parseReadableSizeOrNull", "parseReadableSizeOrZero", "parseTimeDelta", "queryID",
    "revision", "rowNumberInAllBlocks", "rowNumberInBlock", "runningAccumulate", "runningDifference",
    "runningDifferenceStartingWithFirstValue", "throwIf", "toColumnTypeName", "toTypeName", "transform", "uptime",
    "variantElement", "variantType", "version", "visibleWidth",
})  # fmt: skip

# What the parser prints as a function though system.functions does not list it.
_SYNTAX = frozenset({"_CAST", "lambda", "exists", "grouping", "columns", "extract", "interval"})

TABLE_FUNCTIONS = frozenset({"numbers", "numbers_mt", "zeros", "generateSeries", "generate_series", "values", "view"})

# Only in CREATE and ALTER: codecs, index types and their tokenizers.
DEFINITIONS = frozenset({
    "CODEC", "Default", "Delta", "DoubleDelta", "FPC", "GCD", "Gorilla", "LZ4", "LZ4HC", "NONE", "T64", "ZSTD",
    "array", "bloom_filter", "minmax", "ngrambf_v1", "ngrams", "set", "sparseGrams", "splitByNonAlpha",
    "splitByString", "text", "tokenbf_v1",
})  # fmt: skip
ENGINES = frozenset({
    "MergeTree", "ReplacingMergeTree", "SummingMergeTree", "AggregatingMergeTree", "CollapsingMergeTree",
    "VersionedCollapsingMergeTree",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Function:
    """A row of system.functions."""

    name: str
    category: str
    is_aggregate: bool
    case_insensitive: bool
    alias_to: str


class Vocabulary:
    """Answers whether a name is allowed, in the engine's own case rules."""

    def __init__(self, functions: Iterable[Function], combinators: Iterable[str], types: Iterable[str]) -> None:
        known = {function.name: function for function in functions}
        allowed = [f for f in known.values() if _is_pure(f, known)]
        self._exact = {f.name for f in allowed} | _SYNTAX
        self._folded = {f.name.lower() for f in allowed if f.case_insensitive} | {name.lower() for name in _SYNTAX}
        self._aggregates = {f.name for f in allowed if f.is_aggregate}
        self._folded_aggregates = {f.name.lower() for f in allowed if f.is_aggregate and f.case_insensitive}
        self._combinators = tuple(combinators)
        self._types = {name.lower() for name in types}

    def function(self, name: str) -> bool:
        """True for a pure function, or an aggregate one with any combinators behind (`countIf`, `sumArrayIf`)."""
        if name in self._exact or name.lower() in self._folded:
            return True
        stem = name
        while True:
            suffix = next((c for c in self._combinators if stem.endswith(c) and len(stem) > len(c)), None)
            if suffix is None:
                return False
            stem = stem[: -len(suffix)]
            if stem in self._aggregates or stem.lower() in self._folded_aggregates:
                return True

    def type(self, name: str) -> bool:
        return name.lower() in self._types


def _is_pure(function: Function, known: Mapping[str, Function]) -> bool:
    target = known.get(function.alias_to, function) if function.alias_to else function
    if target.name in _PURE_OTHERS:
        return True
    return target.category in _PURE


# Formats that read or write only the stream: no schema files, no templates.
INPUT_FORMATS = frozenset({
    "Arrow", "ArrowStream", "CSV", "CSVWithNames", "CSVWithNamesAndTypes", "JSON", "JSONColumns", "JSONCompactEachRow",
    "JSONCompactEachRowWithNames", "JSONCompactEachRowWithNamesAndTypes", "JSONEachRow", "JSONLines", "NDJSON",
    "Native", "Parquet", "RowBinary", "RowBinaryWithNames", "RowBinaryWithNamesAndTypes", "TSV", "TSVRaw",
    "TSVWithNames", "TSVWithNamesAndTypes", "TabSeparated", "TabSeparatedRaw", "TabSeparatedWithNames",
    "TabSeparatedWithNamesAndTypes", "Values",
})  # fmt: skip
OUTPUT_FORMATS = INPUT_FORMATS | frozenset({
    "BSONEachRow", "JSONColumnsWithMetadata", "JSONCompact", "JSONCompactColumns", "JSONCompactStrings",
    "JSONCompactStringsEachRow", "JSONCompactStringsEachRowWithNames", "JSONCompactStringsEachRowWithNamesAndTypes",
    "JSONL", "JSONObjectEachRow", "JSONStrings", "JSONStringsEachRow", "LineAsString", "MD", "Markdown", "MsgPack",
    "Null", "ORC", "Pretty", "PrettyCompact", "PrettyCompactMonoBlock", "PrettyCompactNoEscapes", "PrettyJSONEachRow",
    "PrettyMonoBlock", "PrettyNoEscapes", "PrettySpace", "PrettySpaceNoEscapes", "Raw", "RawBLOB", "SQLInsert", "TSKV",
    "TSVRawWithNames", "TSVRawWithNamesAndTypes", "TabSeparatedRawWithNames", "TabSeparatedRawWithNamesAndTypes",
    "Vertical", "XML",
})  # fmt: skip

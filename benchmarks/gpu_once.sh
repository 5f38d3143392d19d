#!/usr/bin/env bash
# Every figure and test of one GPU, in one command of at most nine minutes, on a machine without a network.
#
# 1. Where there is a network, in this repository:
#        benchmarks/gpu_once.sh --fetch
#    downloads the few pure-Python wheels that such a machine lacks (about 1 MB, the versions of requirements/dev.lock)
#    into benchmarks/carried/, which git ignores. Put beside them by hand:
#    - airbench94_muon.py, airbench95.py and airbench96.py (legacy/) of github.com/KellerJordan/cifar10-airbench: the
#      comparison. Without them its stages are skipped.
#    - cifar10-images.tar.xz, unless the machine has it elsewhere (see DATA).
# 2. Copy the repository with benchmarks/carried/ to the machine.
# 3. There: OUT=DIR benchmarks/gpu_once.sh
#
# It unpacks the data, fits configs/fast.yaml for two epochs (exit status 2 and the end of its log if that fails, before
# any time is lost), runs benchmarks/gpu.py, then the tests that are marked `gpu`. Exit status 0: all of it went well; 1: a
# stage or a test failed; 2: nothing was measured.
# $OUT gets: environment.txt, smoke.log, gpu.json (after each stage), gpu.log, tests.log.
#
# Variables: OUT     folder of all output (needed)
#            DATA    CIFAR-10 as a tar archive of one folder, or as a folder; else $CIFAR_LIT_DATA, else
#                    cifar10-images.tar.xz in benchmarks/carried/, shared/data/ or ../shared/data/
#            PYTHON  python3   with torch, torchvision, pytorch-lightning, torchmetrics, matplotlib, tensorboard, pytest
#            PARTS   "smoke benchmark tests"
#            STAGES  of benchmarks/gpu.py; all. A second call makes up for what there was no time for:
#                    PARTS="benchmark tests" STAGES="accurate airbench95" LIMIT=120 TOTAL=240
#            TOTAL   540   seconds for everything
#            LIMIT   440   seconds for benchmarks/gpu.py
#            SEEDS   20    of fast.yaml and of airbench94_muon
#            ACCELERATOR=cpu TINY=1   tries all of it on synthetic images without a GPU; no figure means anything then
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
carried=$here/carried
PYTHON=${PYTHON:-python3} PARTS=${PARTS:-smoke benchmark tests} TOTAL=${TOTAL:-540} LIMIT=${LIMIT:-440}
ACCELERATOR=${ACCELERATOR:-gpu} TINY=${TINY:-} SEEDS=${SEEDS:-20} STAGES=${STAGES:-}

fail() {
    echo "error: $*" >&2
    exit 2
}

fetch() {
    local wheels
    wheels=$(grep -oE '^(jsonargparse|docstring-parser|typeshed-client)==[^ ;]+' "$root/requirements/dev.lock") || fail \
        "requirements/dev.lock does not name jsonargparse, docstring-parser and typeshed-client. Mend it with: make lock"
    mkdir -p "$carried"
    rm -f "$carried"/*.whl
    # shellcheck disable=SC2086
    "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --dest "$carried" $wheels || fail \
        "no wheels could be downloaded. Run this where pip reaches a package index."
    ls -l "$carried"
}

data() { # where the data set is, as a folder; unpacked if it is an archive
    local found=${DATA:-${CIFAR_LIT_DATA:-}} each
    if [ -z "$found" ]; then
        for each in "$carried" "$root/shared/data" "$root/../shared/data"; do
            [ -f "$each/cifar10-images.tar.xz" ] && found=$each/cifar10-images.tar.xz && break
        done
    fi
    [ -n "$found" ] || fail "CIFAR-10 was not found. Name its archive or its folder in DATA."
    if [ -d "$found" ]; then
        (cd "$found" && pwd)
        return
    fi
    mkdir "$work/data"
    if command -v tar >/dev/null && command -v xz >/dev/null; then
        tar -xf "$found" -C "$work/data"
    else
        "$PYTHON" -m tarfile --filter data -e "$found" "$work/data"
    fi || fail "$found can't be unpacked. DATA must be a tar archive or a folder."
    echo "$work"/data/*
}

environment() {
    date -u
    nvidia-smi 2>&1 || echo "no nvidia-smi"
    uname -srm
    lscpu | grep -E '^(Model name|CPU\(s\))'
    "$PYTHON" --version
    "$PYTHON" -m pip list 2>/dev/null
}

smoke() {
    local options=(--trainer.max_epochs 2 --trainer.accelerator "$ACCELERATOR" --trainer.enable_progress_bar false)
    options+=(--registry "$work/registry" --seed_everything 0)
    if [ -n "$TINY" ]; then
        options+=(--data.source synthetic --data.num_synthetic 600 --data.batch_size 100)
        options+=("--model.network.init_args.widths=[8,8,8]")
    else
        options+=(--data.root "$folder")
    fi
    (cd "$work" && timeout -k 5 150 "$PYTHON" -m cifar_lit.cli fit --config "$root/configs/fast.yaml" "${options[@]}") \
        >"$OUT/smoke.log" 2>&1
}

benchmark() {
    local seconds=$((TOTAL - SECONDS - 5)) options=(--accelerator "$ACCELERATOR" --seeds "$SEEDS" --out "$OUT/gpu.json")
    [ "$seconds" -gt "$LIMIT" ] && seconds=$LIMIT
    options+=(--seconds "$seconds" --airbench "${AIRBENCH:-$carried}")
    if [ -n "$TINY" ]; then options+=(--tiny); else options+=(--root "$folder"); fi
    # shellcheck disable=SC2206
    [ -n "$STAGES" ] && options+=(--stages $STAGES)
    timeout -k 5 $((seconds + 20)) "$PYTHON" "$here/gpu.py" "${options[@]}" 2>&1 | tee "$OUT/gpu.log"
}

tests() {
    local seconds=$((TOTAL - SECONDS))
    if [ "$seconds" -lt 15 ]; then
        echo "tests: skipped, $seconds s were left" | tee "$OUT/tests.log"
        return
    fi
    # KILL: a fit that gets SIGTERM ends early and in order, and its test would fail for that.
    (cd "$root" && timeout -s KILL "$seconds" "$PYTHON" -m pytest tests/test_gpu.py -m gpu -p no:cacheprovider \
        -p no:randomly --durations=0 -v 2>&1) | tee "$OUT/tests.log"
}

if [ "${1:-}" = --fetch ]; then
    fetch
    exit
fi
[ -n "${OUT:-}" ] || fail "OUT is not set. Name the folder for all output: OUT=DIR benchmarks/gpu_once.sh"
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd) || fail "$OUT can't be made. Name another folder in OUT."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONUNBUFFERED=1 PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
environment >"$OUT/environment.txt"
if ! "$PYTHON" -c 'import jsonargparse, docstring_parser, typeshed_client' 2>/dev/null; then
    ls "$carried"/*.whl >/dev/null 2>&1 || fail \
        "$PYTHON lacks jsonargparse, docstring-parser or typeshed-client, and $carried has no wheels. Run benchmarks/gpu_once.sh --fetch first, where there is a network."
    "$PYTHON" -m pip install --quiet --no-index --no-deps --target "$work/site" "$carried"/*.whl || fail \
        "the wheels in $carried can't be installed. Run benchmarks/gpu_once.sh --fetch again."
    export PYTHONPATH=$PYTHONPATH:$work/site
fi
folder=
if [ -z "$TINY" ]; then folder=$(data) || exit 2; fi

status=0
for part in $PARTS; do
    echo "== $part, after $SECONDS s"
    case $part in
    smoke)
        if ! smoke; then
            tail -n 60 "$OUT/smoke.log"
            fail "two epochs of configs/fast.yaml failed; the log above is $OUT/smoke.log."
        fi
        tail -n 4 "$OUT/smoke.log"
        ;;
    benchmark) benchmark || status=1 ;;
    tests) tests || status=1 ;;
    *) fail "PARTS has '$part', expected smoke, benchmark and tests." ;;
    esac
done
echo "== done after $SECONDS s, exit status $status"
exit $status

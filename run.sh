#!/usr/bin/env bash
# Every experiment by name: those of the notes, those of the paper's tables, and their small likes on bundled data.
#   ./run.sh --list                        what there is, how long it takes, which figures to expect
#   ./run.sh cifar10_fix_100_darp --gpu 0  train it; further flags are passed on and win over the experiment's own
#   ./run.sh NAME --dry-run                resolve the configuration, print it with the counts, and stop
# A finished run is not trained again, an interrupted one goes on. Trainer: train_with_wandb.py, or what TRAINER names.
set -euo pipefail
cd "$(dirname "$0")"

table=configs/experiments.txt
trainer=${TRAINER:-train_with_wandb.py}
python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && [ -x .venv/bin/python ]; then python=.venv/bin/python; fi

main() {
    case ${1:-} in
    "" | -h | --help)
        sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
        return 0
        ;;
    --list)
        grep -v '^#' "$table"
        return 0
        ;;
    esac
    local name=$1 line what flags
    shift
    line=$(grep -v '^#' "$table" | awk -F '|' -v name="$name" '{n = $1; gsub(/ /, "", n)} n == name')
    if [ -z "$line" ]; then
        echo "run.sh: there is no experiment $name: ./run.sh --list names them all" >&2
        return 2
    fi
    IFS='|' read -r _ what flags _ <<<"$line"
    read -r what <<<"$what" # without the blanks around it
    local -a own
    read -r -a own <<<"$flags"
    case $what in
    sweeps/*) sweep "$name" "$what" "$@" ;;
    *) train "$name" --config "$what" --resume auto ${own[@]+"${own[@]}"} "$@" ;;
    esac
}

# train NAME FLAGS...
train() {
    local name=$1
    shift
    say "$trainer" "$@"
    "$python" "$trainer" "$@"
    if [ "${name%_crt}" != "$name" ]; then retrain "$@"; fi
}

# retrain FLAGS...: the head of the run that these flags train
retrain() {
    local folder flag
    local -a own=(--overwrite)
    folder=$("$python" "$trainer" "$@" --dry-run 2>&1 >/dev/null | sed -n 's/^run folder: \([^,]*\).*/\1/p')
    for flag in gpu data-dir data_dir; do # the flags that the two programs share
        value_of "$flag" "$@"
        if [ -n "$value" ]; then own+=("--$flag=$value"); fi
    done
    if [ "$trainer" = train_with_wandb.py ]; then own+=(--wandb); fi
    say retrain_head.py "$folder/checkpoint.pt" "${own[@]}"
    case " $* " in *" --dry-run "* | *" --dry_run "*) return 0 ;; esac
    "$python" retrain_head.py "$folder/checkpoint.pt" "${own[@]}"
}

# value_of FLAG WORDS...: sets `value` to the last one given to --FLAG, as two words or as --FLAG=VALUE
value_of() {
    local flag=--$1 previous="" word
    shift
    value=""
    for word in "$@"; do
        if [ "$previous" = "$flag" ]; then value=$word; fi
        case $word in "$flag="*) value=${word#*=} ;; esac
        previous=$word
    done
}

# sweep NAME FILE FLAGS...: the trials without a server, then their table
sweep() {
    local name=$1 file=$2 page=$1 folder=result/$1
    shift 2
    case $name in # two sweeps, one table
    refineries_fashion_mnist | refineries_online) page=refineries folder=result/refineries_fashion_mnist ;;
    esac
    say -m sweeps run "$file" "$@"
    "$python" -m sweeps run "$file" "$@"
    case $name/" $* " in
    */*" --dry-run "*) ;;
    imbalance_* | methods_* | refineries_*)
        "$python" eval.py summary "$folder" --markdown "docs/results/$page.md" --csv "docs/results/$page.csv" \
            --title "$name" --note "Runs: \`./run.sh $name${*:+ $*}\`"
        ;;
    esac
}

say() { echo "+ $python $*" >&2; }

main "$@"

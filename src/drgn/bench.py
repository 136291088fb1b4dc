"""Measure the speed of this program on this machine, alone or beside cryoDRGN.

    drgn bench                                          # this program alone, and its share of the peak
    drgn bench cryodrgn=/path/to/cryodrgn/bin/cryodrgn  # both programs in turn, on the same images
    drgn bench 'cases=[{model: 1024x3, box_size: 128, images: 64, batch_size: 8, volumes: 0}]'

Simulates what it needs. Each program runs as its own command; rates are those of the training loop, encoding,
maps and the time to the first step are of whole commands. Wall time and CPU time; medians of `pairs` runs in
turn. Writes results.json, report.md and speed.png; results of other cases that are there already stay.
"""

from pathlib import Path

from drgn.command import command
from drgn.errors import say


def bench(
    *,
    cases: list,
    precisions: list[str],
    pixels: str,
    cryodrgn: Path | None,
    pairs: int,
    threads: int | None,
    seconds: float,
    work: Path,
    output: Path,
) -> Path:
    """Measure and report.

    Parameters
    ----------
    cases
        Mappings with model, box_size, images, batch_size and volumes; see `benchmark.versus.Case`.
    precisions
        Of `trainer.precision`.
    pixels
        A choice of conf/pixels.
    cryodrgn
        Path of cryoDRGN's program; None measures this program alone.
    pairs
        Runs of each program.
    threads
        Of each program; None leaves it to them.
    seconds
        For the steps of each case and precision.
    work
        Folder of the simulated sets and the runs.
    output
        Folder of the report.

    Returns
    -------
    Path
        report.md.
    """
    import sys

    from drgn.benchmark import report, step
    from drgn.benchmark.versus import Case, compare
    from drgn.signature import bind

    work.mkdir(parents=True, exist_ok=True)
    names = {f"drgn_{'bf16' if 'bf16' in p else 'fp32'}": p for p in precisions}
    results: report.Results = {}
    for node in cases:
        case = Case(**bind(Case, {**node, "folder": work}, key="cases"))
        case.simulate()
        for name, precision in names.items():
            taken = step.measure(case.overrides, "bf16" in precision, threads, seconds)
            results |= {f"{case.name}.{name}.step_{k}": float(f"{v:.4g}") for k, v in taken._asdict().items()}
            say(f"{case.name} {name}: {taken}", flush=True)
        samples = compare(
            case,
            precisions=names,
            pixels=pixels,
            cryodrgn=cryodrgn,
            pairs=pairs,
            threads=threads,
            say=lambda line: say(line, flush=True),
        )
        results |= report.summary(case.name, samples)
    notes = [
        f"Command: `drgn {' '.join(['bench', *sys.argv[1:]])}`.",
        f"Medians of {pairs} runs of each program in turn (± half the range); in brackets the ratio to"
        " cryoDRGN, above 1 where drgn is faster. Rates of training without start-up; encode, generate and"
        " first_step are whole commands. step_*: steps alone, against the products of two 1536 x 1536"
        " matrices taken between them. Paper's encoder, latent of 8 dimensions.",
    ]
    report.write(output, results, notes)
    say(f"report: {output / 'report.md'}")
    return output / "report.md"


main = command(bench)
if __name__ == "__main__":
    main()

"""``lightbsr check``: name everything in an option file that would fail later; train and test do so at their start."""

import argparse

from lightbsr_compat import InputError, atomic_write

from .packaged import find_option_file
from .training.pipelines import add_option_file_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_option_file_arguments(parser, required=False)
    parser.add_argument("--full", action="store_true", help="read all images, not a sample")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of option files, for editors")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the schema to a file")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""

    from .training.option_files import import_modules, load_checked_options

    if args.schema:
        from .training.schema import schema_text

        import_modules(args.modules)
        text = schema_text()
        if args.output is None:
            print(text, end="")
            return 0
        with atomic_write(args.output) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
        return 0
    if args.opt is None:
        raise InputError("nothing to check: name an option file with -opt (or --schema)")
    path = find_option_file(args.opt)
    load_checked_options(path, args.force_yml, launcher=args.launcher, full=args.full, modules=args.modules)
    print(f"{path}: no findings")
    return 0

//! The `brownbridge` binary; everything is in the library.

fn main() -> std::process::ExitCode {
    brownbridge::cli::main()
}

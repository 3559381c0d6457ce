//! Makes the JavaScript glue of the linked wasm module: `xtask <linked.wasm> <output folder>`.
//!
//! This replaces the `wasm-bindgen` command, so that nobody has to install a tool whose version must equal that of
//! the crate. The glue leaves out the default module path: the page, a bundler and Node each know for themselves
//! where the wasm file lies, and a guess inside the glue would make every bundler ship the file twice.

#![allow(clippy::print_stderr, reason = "a command line speaks on standard error")]

use std::error::Error;
use std::process::ExitCode;

use wasm_bindgen_cli_support::Bindgen;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [module, folder] = arguments.as_slice() else {
        eprintln!("usage: xtask <linked.wasm> <output folder>");
        return ExitCode::from(2);
    };
    match glue(module, folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {module}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn glue(module: &str, folder: &str) -> Result<(), Box<dyn Error>> {
    let mut bindgen = Bindgen::new();
    bindgen
        .input_path(module)
        .out_name("iteris_web")
        .web(true)?
        .omit_default_module_path(true)
        // `__wbg_reset_state`, by which a helper lets go of its memory between two calls: www/lib/engine/share.ts.
        .reset_state_function(true)
        .typescript(true)
        .remove_name_section(true)
        .remove_producers_section(true);
    bindgen.generate(folder)?;
    Ok(())
}

//! The reader that `URBANCROSS_FUZZ` names, under libFuzzer.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static READ: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("URBANCROSS_FUZZ").expect("URBANCROSS_FUZZ names a target, such as pickle");
    fuzz::Target::named(&name).unwrap_or_else(|| panic!("no target is called {name:?}")).read
});

fuzz_target!(|bytes: &[u8]| READ(bytes));

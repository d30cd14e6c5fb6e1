//! `docs/guarantees.md` names for each promise the test that shows it: those tests exist.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}

fn sources(directory: &Path, found: &mut String) {
    for entry in fs::read_dir(directory).expect("the workspace can be read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            found.push_str(&fs::read_to_string(&path).expect("a source is text"));
        }
    }
}

#[test]
fn every_promise_names_tests_that_exist() {
    let page = fs::read_to_string(root().join("docs/guarantees.md")).expect("the page is there");
    let mut code = String::new();
    for package in ["tests/scenarios", "shared/src", "streams/src", "publisher/src", "subscriber/src", "demonctl/src"] {
        sources(&root().join(package), &mut code);
    }
    let mut named = 0;
    for line in page.lines().filter(|line| line.trim_start().starts_with("Shown by")) {
        for test in line.split('`').skip(1).step_by(2) {
            let place = code.find(&format!("fn {test}(")).unwrap_or_else(|| panic!("no test is called `{test}`"));
            let before = &code[place.saturating_sub(300)..place];
            assert!(before.contains("test"), "`{test}` is no test");
            named += 1;
        }
    }
    let promises = page.lines().filter(|line| line.starts_with("### ")).count();
    let shown = page.lines().filter(|line| line.trim_start().starts_with("Shown by")).count();
    assert_eq!(promises, shown, "each promise says what shows it");
    assert!(named >= promises, "{named} tests for {promises} promises");
}

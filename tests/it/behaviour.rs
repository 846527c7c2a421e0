//! Compares the numbered statements of `docs/behaviour.md` with the names of the tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

#[test]
fn statements_and_tests_have_the_same_numbers() {
    let statements = statements();
    let tests = tests();
    let untested: Vec<_> = statements.iter().filter(|number| !tests.contains_key(*number)).collect();
    assert!(untested.is_empty(), "statements of docs/behaviour.md without a test: {untested:?}");
    let unstated: Vec<_> = tests.iter().filter(|(number, _)| !statements.contains(number)).collect();
    assert!(unstated.is_empty(), "tests with a number that docs/behaviour.md does not have: {unstated:?}");
}

/// Returns the numbers of the statements, which must ascend.
fn statements() -> BTreeSet<u32> {
    let text = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/behaviour.md"));
    let numbers: Vec<u32> = text.lines().filter_map(statement_number).collect();
    assert!(numbers.is_sorted_by(|before, after| before < after), "docs/behaviour.md: unordered numbers: {numbers:?}");
    numbers.into_iter().collect()
}

/// Returns the number of a line such as `**b07.** A client must …`.
fn statement_number(line: &str) -> Option<u32> {
    let (number, _) = line.strip_prefix("**b")?.split_once(".**")?;
    Some(number.parse().unwrap_or_else(|error| panic!("docs/behaviour.md: {line}: {error}")))
}

/// Returns one function name for each number that starts a function name, such as 7 for `fn b07_…`.
fn tests() -> BTreeMap<u32, String> {
    let mut found = BTreeMap::new();
    for root in ["src", "tests"] {
        let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(root)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    found.extend(read(&path).lines().filter_map(test_name));
                }
            }
        }
    }
    found
}

/// Returns the number and the name of a numbered function if the line declares one.
fn test_name(line: &str) -> Option<(u32, String)> {
    let line = line.trim_start();
    let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")?.split(['(', '<']).next()?;
    let (number, _) = name.strip_prefix('b')?.split_once('_')?;
    Some((number.parse().ok()?, name.to_owned()))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

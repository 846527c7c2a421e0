//! Checks that the documentation of each public type, trait and function has an example.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// The items that need no example, by the reason.
const EXCEPTIONS: &[(&str, &[&str])] = &[
    (
        "only tower and the compiler name them",
        &[
            "AfterHandler",
            "AroundHandler",
            "BeforeHandler",
            "CallService",
            "FunctionLayer",
            "FunctionService",
            "HandshakeFuture",
            "Route",
            "RouteFuture",
            "StationsOnly",
        ],
    ),
    (
        "sealed: applications cannot implement them",
        &["Arguments", "ArgumentsFor", "Handler", "HandlerOutput", "MappedCall", "OutputFor"],
    ),
    ("errors that say all in their text", &["InvalidNodeId", "JoinError"]),
    ("for transports of clusters, of which the crate ocpp-rpc-nats is the example", &["Cluster", "Node", "NodeId"]),
];

#[test]
fn public_items_have_examples() {
    let mut missing: BTreeSet<String> = BTreeSet::new();
    let mut count = 0;
    for (file, text) in sources() {
        let shown = Documented::of(&file, &text);
        count += shown.items.len();
        missing.extend(shown.without_example());
    }
    assert!(count > 100, "only {count} items were found");
    let excepted: BTreeSet<String> = EXCEPTIONS.iter().flat_map(|(_, names)| *names).map(|&name| name.into()).collect();
    let unexpected: Vec<_> = missing.difference(&excepted).collect();
    assert!(unexpected.is_empty(), "items without an example in their documentation: {unexpected:?}");
    let needless: Vec<_> = excepted.difference(&missing).collect();
    assert!(needless.is_empty(), "exceptions that are none: {needless:?}");
}

/// The public items of a file, and the examples of their documentation.
#[derive(Default)]
struct Documented {
    /// The examples of each item and of its methods.
    items: BTreeMap<String, usize>,
    /// Enums, and structs of which all fields are public. They are values that a method returns or takes, and need no
    /// example unless they have methods.
    values: BTreeSet<String>,
    with_methods: BTreeSet<String>,
    /// The text of all examples.
    examples: String,
}

impl Documented {
    fn of(file: &Path, text: &str) -> Self {
        let mut found = Self::default();
        let code = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let lines: Vec<&str> = code.lines().collect();
        // The type or trait of the block around the line.
        let mut of = None;
        for (at, line) in lines.iter().enumerate() {
            let docs = || docs_above(file, &lines[..at]);
            if let Some((kind, name)) = public_item(line) {
                let examples = examples(&docs());
                found.examples.push_str(&examples.concat());
                *found.items.entry(name.to_owned()).or_default() += examples.len();
                if kind == "enum" || (kind == "struct" && has_public_fields_only(&lines[at..])) {
                    found.values.insert(name.to_owned());
                }
                of = (kind == "trait").then_some(name);
            } else if line.starts_with("impl") {
                of = implemented(line);
            } else if let (Some(name), true) = (of, is_public_method(line)) {
                let examples = examples(&docs());
                found.examples.push_str(&examples.concat());
                if let Some(count) = found.items.get_mut(name) {
                    *count += examples.len();
                    found.with_methods.insert(name.to_owned());
                }
            }
        }
        let module = lines.iter().filter_map(|line| line.strip_prefix("//!")).collect::<Vec<_>>().join("\n");
        found.examples.push_str(&examples(&module).concat());
        found
    }

    /// Returns the items that neither have an example nor occur in one of their file.
    fn without_example(self) -> impl Iterator<Item = String> {
        let Self { items, values, with_methods, examples } = self;
        let words: BTreeSet<String> =
            examples.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned).collect();
        let missing = items.into_iter().filter(|(_, examples)| *examples == 0).map(|(name, _)| name);
        missing.filter(move |name| {
            let is_value = values.contains(name) && !with_methods.contains(name);
            !is_value && !words.contains(name)
        })
    }
}

/// Returns the kind and the name of a public item that a line at the left margin declares. The lint `unreachable_pub`
/// makes sure that no others are `pub`.
fn public_item(line: &str) -> Option<(&str, &str)> {
    let declared = line.strip_prefix("pub ")?;
    let (kind, rest) = declared.strip_prefix("async ").unwrap_or(declared).split_once(' ')?;
    let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
    ["struct", "enum", "trait", "fn"].contains(&kind).then_some((kind, name))
}

/// Returns the type of an `impl` without a trait.
fn implemented(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("impl")?;
    if rest.contains(" for ") {
        return None;
    }
    let rest = if rest.starts_with('<') { rest.split_once("> ")?.1 } else { rest.trim_start() };
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

fn is_public_method(line: &str) -> bool {
    line.strip_prefix("    pub ").is_some_and(|rest| rest.split_whitespace().take(3).any(|word| word == "fn"))
}

fn has_public_fields_only(lines: &[&str]) -> bool {
    if !lines[0].ends_with('{') {
        return false;
    }
    let fields = lines[1..].iter().take_while(|line| **line != "}").map(|line| line.trim());
    fields.filter(|line| !line.starts_with("//") && !line.starts_with('#')).all(|line| line.starts_with("pub "))
}

/// Returns the documentation above an item, with the files that it includes.
fn docs_above(file: &Path, lines: &[&str]) -> String {
    let is_attribute = |line: &&&str| {
        let line = line.trim();
        ["//", "#[", ")]", "doc = ", "note = ", "message = ", "label = ", "not("]
            .iter()
            .any(|start| line.starts_with(start))
    };
    let above: Vec<_> = lines.iter().rev().take_while(is_attribute).collect();
    let docs = above.into_iter().rev().map(|line| match line.split_once("include_str!(\"") {
        Some((_, path)) => read(&file.with_file_name(path.split('"').next().unwrap_or_default())),
        None => line.trim().strip_prefix("///").unwrap_or_default().to_owned(),
    });
    docs.collect::<Vec<_>>().join("\n")
}

/// Returns the blocks of Rust code in a documentation.
fn examples(docs: &str) -> Vec<String> {
    let blocks = docs.split("```").collect::<Vec<_>>();
    let code = blocks.iter().skip(1).step_by(2);
    let rust = code.filter(|block| {
        let language = block.lines().next().unwrap_or_default().trim();
        ["", "no_run", "should_panic", "rust"].contains(&language)
    });
    rust.map(|block| (*block).to_owned()).collect()
}

/// Returns the files of the library, except the root and those without users.
fn sources() -> Vec<(std::path::PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_stem().expect("a name").to_str().expect("UTF-8").to_owned();
            if ["unstable", "lib", "guide", "tests", "laws"].contains(&&*name) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = read(&path);
                found.push((path, text));
            }
        }
    }
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

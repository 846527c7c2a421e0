//! What the compiler says to those who get it wrong. The texts are those of the newest stable compiler:
//! `TRYBUILD=overwrite cargo test --test ui` writes them anew.

#[test]
fn mistakes_are_explained() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}

//! The forms that a function's code and its entry point can have.

use serde_json::json;

use crate::world::{JAVA, JAVASCRIPT, PYTHON, World, expect};

#[tokio::test(flavor = "multi_thread")]
async fn each_form_of_code_is_called() {
    let world = World::start(&[]).await;
    let named = json!({"name": "you"});
    let text = json!("you");
    let hello = "Hello, you!";
    let cases = [
        (PYTHON, "kit.py", Some("kit.later"), &text, "you"),
        (PYTHON, "tree-python.zip", None, &named, hello),
        (PYTHON, "tree-python.zip", Some("main.main"), &named, hello),
        (PYTHON, "tree-python.zip", Some("package.beside.greet"), &text, hello),
        (PYTHON, "package-python.zip", Some("greeting.greet"), &text, hello),
        (JAVASCRIPT, "kit.js", Some("kit.later"), &text, "you"),
        (JAVASCRIPT, "tree-javascript.zip", None, &named, hello),
        (JAVASCRIPT, "tree-javascript.zip", Some("index.handler"), &named, hello),
        (JAVASCRIPT, "package-javascript.zip", None, &named, hello),
        (JAVASCRIPT, "module.mjs", None, &named, hello),
        (JAVASCRIPT, "script.js", Some("script.main"), &named, hello),
        (JAVA, "Mapped.jar", Some("Mapped"), &named, r#"{"greeting":"Hello, you!"}"#),
        (JAVA, "Mapped.class", Some("Mapped"), &named, r#"{"greeting":"Hello, you!"}"#),
        (JAVA, "Mapped.jar", Some("Mapped.main"), &named, r#"{"greeting":"Hello, you!"}"#),
        (JAVA, "Texted.jar", Some("Texted"), &named, "Hello, text!"),
    ];
    let present = world.languages(&[PYTHON, JAVASCRIPT, JAVA]).await;
    for (language, file, entry_point, arguments, expected) in cases {
        if !present.iter().any(|other| other.name == language.name) {
            continue;
        }
        for kind in world.kinds().await {
            let mut registration = world.registration("shape", &language, kind);
            registration.url = world.code.url(file);
            registration.entry_point = entry_point.map(str::to_owned);
            expect(&world.client.register(&registration).await.unwrap(), 200);
            let result = world.result("shape", arguments).await;
            assert_eq!(result, expected, "{file} {entry_point:?} in {kind}");
            world.deregister("shape").await;
        }
    }
}

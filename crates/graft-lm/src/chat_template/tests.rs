use serde_json::{Map, Value, json};

use super::{ChatOptions, ChatTemplate, Time};

fn render(source: &str, messages: &Value, options: &ChatOptions) -> crate::Result<String> {
    ChatTemplate::new(source)?.render(messages, options, &Map::new())
}

#[test]
fn strftime_now_formats_the_local_time() {
    let messages = json!([{"role": "user", "content": "x"}]);
    let year = render("{{ strftime_now('%Y') }}", &messages, &ChatOptions::default()).unwrap();
    assert_eq!(year, chrono::Local::now().format("%Y").to_string());
    let error = render("{{ strftime_now('%!') }}", &messages, &ChatOptions::default());
    assert!(error.unwrap_err().to_string().contains("\"%!\" is no format of a time"));
    let time: Time = serde_json::from_value(json!("2001-02-03T04:05:06+00:00")).unwrap();
    // In a macro too, which does not see what the template is given.
    let source = "{% macro day() %}{{ strftime_now('%d %b %Y') }}{% endmacro %}{{ day() }}";
    let template = ChatTemplate::at(source, Some(time)).unwrap();
    let text = template.render(&messages, &ChatOptions::default(), &Map::new()).unwrap();
    assert_eq!(text, "03 Feb 2001");
}

#[test]
fn a_broken_template_names_its_line() {
    let message = ChatTemplate::new("a\n{% if %}").unwrap_err().to_string();
    assert!(message.starts_with("the chat template is not Jinja: "), "{message}");
    assert!(message.contains(":2)"), "{message}");
}

#[test]
fn messages_must_be_a_list_of_objects() {
    let message =
        |messages| render("x", &messages, &ChatOptions::default()).unwrap_err().to_string();
    assert!(message(json!("x")).contains("must be a list of objects"));
    assert!(message(json!([])).contains("at least one message"));
    assert!(message(json!([1])).contains("message 0 is not an object"));
}

#[test]
fn continuing_needs_a_text_that_the_template_keeps() {
    let options = ChatOptions { continue_final_message: true, ..ChatOptions::default() };
    let messages = json!([{"role": "assistant", "content": "begin"}]);
    let source = "{% for m in messages %}<{{ m.content }}>{% endfor %}";
    assert_eq!(render(source, &messages, &options).unwrap(), "<begin");
    let message = render("nothing", &messages, &options).unwrap_err().to_string();
    assert!(message.contains("drops the last message"), "{message}");
    let message = render(source, &json!([{"role": "x"}]), &options).unwrap_err().to_string();
    assert!(message.contains("needs a text in the last message"), "{message}");
    let both = ChatOptions { add_generation_prompt: true, ..options };
    assert!(render(source, &messages, &both).is_err());
}

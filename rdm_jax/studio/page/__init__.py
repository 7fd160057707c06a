"""The page itself, which needs Gradio: `app` puts it together, `tabs` has one file for each tab."""

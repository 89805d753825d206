// OpenAI chat completions with openai-go. MODULE is the library's path in the row's version.
package main

import (
	"context"
	"errors"
	"strings"

	"MODULE"
	"MODULE/option"
)

func play(url, key string, say func(string)) error {
	client := openai.NewClient(option.WithBaseURL(url+"/v1/"), option.WithAPIKey(key))
	stream := client.Chat.Completions.NewStreaming(context.Background(), openai.ChatCompletionNewParams{
		Model:    "m",
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("count")},
	})
	for stream.Next() {
		say(stream.Current().RawJSON())
	}
	return stream.Err()
}

// Errors inside a stream have a class of their own only in newer versions; the words are the same in all.
func isOwn(err error) bool {
	var refused *openai.Error
	return errors.As(err, &refused) || strings.HasPrefix(err.Error(), "received error while streaming")
}

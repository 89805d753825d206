// Gemini with google.golang.org/genai.
package main

import (
	"context"
	"encoding/json"
	"errors"

	"MODULE"
)

func play(url, key string, say func(string)) error {
	client, err := genai.NewClient(context.Background(), &genai.ClientConfig{
		APIKey:      key,
		Backend:     genai.BackendGeminiAPI,
		HTTPOptions: genai.HTTPOptions{BaseURL: url},
	})
	if err != nil {
		return err
	}
	contents := genai.Text("count")
	for chunk, err := range client.Models.GenerateContentStream(context.Background(), "m", contents, nil) {
		if err != nil {
			return err
		}
		text, _ := json.Marshal(chunk.Candidates)
		say(string(text))
	}
	return nil
}

func isOwn(err error) bool {
	var own genai.APIError
	return errors.As(err, &own)
}

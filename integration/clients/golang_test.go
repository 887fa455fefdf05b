package clients

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/bwmarrin/discordgo"
	"github.com/hashicorp/go-retryablehttp"
	"github.com/openai/openai-go/v3"
	openaioption "github.com/openai/openai-go/v3/option"
	"github.com/stripe/stripe-go/v85"
)

// The clients that are called in the test's own process, each as its own
// documentation does. What is not its default is said beside it. The error is
// what the client's caller sees.

func sendOpenAI(ctx context.Context, base, text string) error {
	client := openai.NewClient(openaioption.WithAPIKey("key"), openaioption.WithBaseURL(base+"/v1/"))
	_, err := client.Chat.Completions.New(ctx, openai.ChatCompletionNewParams{
		Model:    "m",
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(text)},
	})
	return err
}

func sendAnthropic(ctx context.Context, base, text string) error {
	client := anthropic.NewClient(anthropicoption.WithAPIKey("key"), anthropicoption.WithBaseURL(base))
	_, err := client.Messages.New(ctx, anthropic.MessageNewParams{
		Model:     "m",
		MaxTokens: 16,
		Messages:  []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(text))},
	})
	return err
}

// sendStripe works below no path but its own: it takes a base URL with one, sends,
// and does not read the answer.
func sendStripe(ctx context.Context, base, text string) error {
	config := stripe.BackendConfig{
		URL:           new(base),
		LeveledLogger: &stripe.LeveledLogger{Level: stripe.LevelNull},
	}
	backends := &stripe.Backends{API: stripe.GetBackendWithConfig(stripe.APIBackend, &config)}
	params := &stripe.ChargeCreateParams{Amount: new(int64(100)), Currency: new("eur"), Description: new(text)}
	_, err := stripe.NewClient("sk_test_key", stripe.WithBackends(backends)).V1Charges.Create(ctx, params)
	return err
}

func sendSNS(ctx context.Context, base, text string) error {
	client := sns.New(sns.Options{
		BaseEndpoint: new(base),
		Region:       "eu-west-1",
		Credentials:  credentials.NewStaticCredentialsProvider("id", "key", ""),
	})
	_, err := client.Publish(ctx, &sns.PublishInput{TopicArn: new("arn:aws:sns:eu-west-1:1:t"), Message: new(text)})
	return err
}

// sendDiscord sends what discordgo addresses to discord.com to the proxy: it
// has no base URL.
func sendDiscord(ctx context.Context, base, text string) error {
	session, err := discordgo.New("Bot token")
	if err != nil {
		return err
	}
	to, err := url.Parse(base)
	if err != nil {
		return err
	}
	session.Client = &http.Client{Transport: redirect{to}}
	_, err = session.ChannelMessageSend("1", text, discordgo.WithContext(ctx))
	return err
}

// redirect is a RoundTripper that sends all requests below one URL.
type redirect struct{ to *url.URL }

func (r redirect) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.URL.Scheme, req.URL.Host, req.Host = r.to.Scheme, r.to.Host, ""
	req.URL.Path = r.to.Path + req.URL.Path
	return http.DefaultTransport.RoundTrip(req)
}

func sendRetryable(ctx context.Context, base, text string) error {
	client := retryablehttp.NewClient()
	client.RetryMax = 2 // 4, which take 15 s
	client.Logger = log.New(io.Discard, "", 0)
	body, err := json.Marshal(map[string]string{"text": text})
	if err != nil {
		return err
	}
	req, err := retryablehttp.NewRequestWithContext(ctx, http.MethodPost, base, bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err = io.Copy(io.Discard, res.Body); err != nil || res.StatusCode == http.StatusOK {
		return err
	}
	return fmt.Errorf("status %d", res.StatusCode)
}
